"""The pure function: a shard of noise to moments. It knows neither Ray nor storage.

Public: `loading.load_network`, `resolve.resolve`, `job.Job`, `shard.run_shard`, `work.Work`.
May import: cuda, statistics and what lies below.
"""
