"""Similarity of solutions in function, weights and masks."""
