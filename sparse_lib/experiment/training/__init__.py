"""A training run: building, the loop, compiled steps, measurements."""
