"""Programs saved by torch.export, read by an allow-list; nothing of a file is trusted.

Public: `reader.load_exported`.
May import: the ground.
"""
