"""Stimuli: how grid values of the noise, or pictures of a data set, become images.

Public: `stimulus.Stimulus`, `offsets.load_offset`, `bases`, `pictures`.
May import: specs, noise, data and the ground.
"""
