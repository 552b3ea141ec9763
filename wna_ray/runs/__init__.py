"""Run directories: what lies where, who drives a run, how it is fetched, and the proof that it is
whole.

Public: `directory.RunDirectory`, `finished.Finished`, `formats.Extent`, `fetch.fetch`,
`driver.Driver`, `claim.claim`. May import: storage, shards, drawing and what lies below.
"""
