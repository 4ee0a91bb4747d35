"""Pruning at initialization: saliency scores, and the methods that turn them into masks."""

from sparse_lib.oneshot.base import OneShot, Problem
from sparse_lib.oneshot.methods import METHODS, SNIP, GraSP, Magnitude, Random, SynFlow, Wanda

__all__ = ["METHODS", "SNIP", "GraSP", "Magnitude", "OneShot", "Problem", "Random", "SynFlow", "Wanda"]
