"""Iterative magnitude pruning with rewinding as one resumable graph of runs, its branches, figures and verdict."""
