"""The pure function: a shard of noise to moments. It knows neither Ray nor storage.

Public: `shard.run_shard`, `job.Job`, `network.Network`, `resolve.resolve`, `work.Work`.
May import: cuda, statistics and what lies below.
"""
