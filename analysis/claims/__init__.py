"""Claims of the papers, as statistical tests on measured quantities."""
