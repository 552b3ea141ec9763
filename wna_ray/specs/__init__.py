"""What a person writes, validated by pydantic: every fault found, unknown keys refused with the
near ones. No torch.

Public: `run.Spec`, `covariance.StcSpec`, `trials.TrialSpec`, `sweep.SweepSpec`, `parse.parse_spec`.
May import: noise, data, registry and the ground.
"""
