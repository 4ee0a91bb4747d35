"""Layers without a dense form: only indices and values of the active weights exist."""

from sparse_lib.layers.sparse_dense import SparseDense
from sparse_lib.layers.sparse_layers import SparseLayers
from sparse_lib.layers.update_masks import UpdateMasks

__all__ = ["SparseDense", "SparseLayers", "UpdateMasks"]
