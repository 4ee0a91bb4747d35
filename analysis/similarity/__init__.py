"""How alike two solutions are: in what they compute, in their weights, in their masks."""
