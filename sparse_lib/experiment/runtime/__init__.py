"""What a process needs while it works: error classes, progress, signals."""
