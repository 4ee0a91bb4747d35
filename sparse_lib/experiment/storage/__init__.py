"""The files of a run directory, and where initial masks and weights are read from."""
