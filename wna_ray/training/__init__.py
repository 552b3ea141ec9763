"""Trainings: networks by `wna train`, each a task that goes on where it stopped.

Public: `job.train`, `spec.TrainSpec`, `training.Training`.
May import: execution and what lies below.
"""
