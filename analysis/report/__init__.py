"""The report on runs: one HTML page, its figures and tables."""
