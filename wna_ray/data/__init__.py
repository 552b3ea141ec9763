"""Data sets, transforms and poison: images and labels as they are on disk.

Public: `datasets` (load, class names, shapes), `transforms`, `poison`.
May import: text, geometry, errors, events, canonical, machine, files.
"""
