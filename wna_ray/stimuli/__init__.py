"""Stimuli: how grid values of the noise, or pictures of a data set, become images.

Public: `stimulus.Stimulus` (a protocol) and `make_stimulus`, `geometry.geometry_of` (no torch),
`offsets.load_offset`, `bases`, `pictures`.
May import: specs, noise, data and the ground.
"""
