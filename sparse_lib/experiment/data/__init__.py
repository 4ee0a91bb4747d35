"""Data sets and the order in which training sees them.

Nothing here imports TensorFlow when it is imported but what runs inside its graphs: `augmentation`, `decoding`,
`pipeline`, `resident` and `stream`.
"""

from sparse_lib.experiment.data.batches import batch_indices
from sparse_lib.experiment.data.catalog import load_dataset
from sparse_lib.experiment.data.dataset import Dataset, Split

__all__ = ["Dataset", "Split", "batch_indices", "load_dataset"]
