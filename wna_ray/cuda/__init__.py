"""The same noise, responses and moments on a CUDA device, bit for bit where they are sums.

Public: `noise`, `responses`, `moments`, `stream.Beside`.
May import: networks, moments and what lies below.
"""
