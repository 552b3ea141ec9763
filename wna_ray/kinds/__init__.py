"""Kinds of jobs, one folder each, which gives one `wna_ray.registry.Kind`; `any` opens and runs
jobs of every kind.

Public: `any.open_any`, `any.run_any`, `views.Views`.
May import: training and what lies below; covariance and trials build on average, not on each other.
"""
