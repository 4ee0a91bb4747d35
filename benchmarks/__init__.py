"""Speed measurements, printed as ratios within one run; `python -m benchmarks.run` runs all of them."""
