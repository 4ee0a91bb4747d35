"""Services of a running process: error classes, progress, signals."""
