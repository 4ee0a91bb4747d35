"""Files of a run directory, and sources of initial masks and weights."""
