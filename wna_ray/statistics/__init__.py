"""Statistics of maps, covariances, trials and classifiers: arrays in, arrays out; every formula
with its source.

Public: the functions of each module.
May import: networks, moments and what lies below.
"""
