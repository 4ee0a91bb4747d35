"""Data sets and the order in which training sees them.

Nothing here imports TensorFlow when it is imported but what runs inside its graphs: `augmentation`, `decoding`,
`pipeline`, `resident` and `stream`.
"""

from sparse_lib.experiment.data.dataset import SPLITS, Dataset, Split
from sparse_lib.experiment.data.feeding.batches import batch_indices
from sparse_lib.experiment.data.sources.catalog import load_dataset

__all__ = ["SPLITS", "Dataset", "Split", "batch_indices", "load_dataset"]
