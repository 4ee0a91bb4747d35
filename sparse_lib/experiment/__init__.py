"""The suite on top of the sparse core: data, networks, runs, measurements, configuration."""
