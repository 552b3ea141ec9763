"""Reports: tables of finished runs, and any run as one HTML page.

Public: `html.written`, `tables`.
May import: studies, sweeps and what lies below.
"""
