"""Data sets in memory and the order in which training sees them (numpy only, no TensorFlow)."""

from sparse_lib.experiment.data.batches import batch_indices
from sparse_lib.experiment.data.catalog import load_dataset
from sparse_lib.experiment.data.dataset import Dataset, Split

__all__ = ["Dataset", "Split", "batch_indices", "load_dataset"]
