"""Studies: comparisons of finished runs (contrasts, correlations of maps, backdoors).

Public: `contrast.contrast`, `compare`, `backdoor`.
May import: kinds and what lies below.
"""
