"""Report on runs: one HTML page with figures and tables."""
