"""Primitives of figures, tables and pages; what kinds of jobs draw lies in their own folders.

Public: `sheets.Sheet`, `maps`, `page.render`, `tables.fill`, `words`.
May import: statistics and what lies below.
"""
