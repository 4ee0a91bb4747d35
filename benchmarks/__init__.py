"""Measurements of speed, printed as ratios within one run; `python -m benchmarks.run` runs them all."""
