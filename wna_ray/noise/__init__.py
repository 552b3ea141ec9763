"""Addressable noise: any image of a stream can be made alone; and the wavelets of its bases.

Public: `stream.Noise` with its tables, `wavelets`.
May import: the ground.
"""
