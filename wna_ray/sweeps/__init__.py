"""Sweeps: many whole runs of any kind in one directory, and the proof that all are there.

Public: `directory.SweepDirectory`, `finished.Sweep`, `job.run_sweep`, `fetch.fetch_sweep`.
May import: kinds and what lies below.
"""
