"""Data sets and the order in which training reads them.

Only the modules that run inside TensorFlow's graphs import it: `augmentation`, `decoding`, `pipeline`, `resident` and
`stream`.
"""

from sparse_lib.experiment.data.dataset import SPLITS, Dataset, Split
from sparse_lib.experiment.data.feeding.batches import batch_indices
from sparse_lib.experiment.data.settings import DataSettings
from sparse_lib.experiment.data.sources.catalog import load_dataset

__all__ = ["SPLITS", "DataSettings", "Dataset", "Split", "batch_indices", "load_dataset"]
