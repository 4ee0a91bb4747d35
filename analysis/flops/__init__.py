"""FLOPs and sizes: published tables, and costs of any network."""
