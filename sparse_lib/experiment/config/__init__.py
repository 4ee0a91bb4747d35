"""Everything that gin configures, as settings, and the experiment that gin files describe."""
