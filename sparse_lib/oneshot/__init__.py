"""Pruning at initialization: saliency scores, and the methods that turn them into masks."""

from sparse_lib.oneshot.methods import METHODS, SNIP, GraSP, Magnitude, OneShot, Problem, Random, SynFlow

__all__ = ["METHODS", "SNIP", "GraSP", "Magnitude", "OneShot", "Problem", "Random", "SynFlow"]
