"""Objects on any fsspec storage, with conditional commits, and bounded reading of what may be
anybody's.

Public: `store.Store` and `Place`, `arrays`, `tables`, `bounds`, `folder.write_files`. The store
stands on `local` (files of this machine), `s3` (how its servers are reached) and `faults` (what an
error of a storage means).
May import: moments and what lies below; no torch.
"""
