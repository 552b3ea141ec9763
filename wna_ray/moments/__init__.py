"""Responses as whole numbers, and their exact sums, which merge in any order.

Public: `moments.Moments` and `Partial`, `responses`, `kept.Stored`, `counts.PassSums`.
May import: stimuli, specs and what lies below.
"""
