"""C sources of the products with active weights, and how they are compiled."""
