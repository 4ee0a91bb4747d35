"""The list of runs below a directory, in the terminal."""
