"""Objects on any fsspec storage, with conditional commits, and bounded reading of what may be
anybody's.

Public: `store.Store` and `Place`, `arrays`, `tables`, `bounds`, `folder.write_files`.
May import: moments and what lies below; no torch.
"""
