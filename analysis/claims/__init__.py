"""The claims of the papers, as tests on measured quantities."""
