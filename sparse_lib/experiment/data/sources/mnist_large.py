"""`mnist_large`: an MNIST-sized data set of distorted copies of `mnist_5k`."""

import os

import numpy as np

from sparse_lib.experiment.data.dataset import Dataset
from sparse_lib.experiment.data.sources.distortion import Originals, Recipe, load_distorted
from sparse_lib.experiment.data.sources.mnist_5k import mnist_originals, split_originals

# The strength of `digits_large`, at which a dense LeNet5 reaches a test accuracy of 97.2% in 1,500 steps of 128 images
# (one seed). It is the only strength tried so far: `python -m benchmarks.mnist_strengths` compares others.
RECIPE = Recipe(rotation=9.0, scale=0.1, shear=0.1, shift=1.0, elastic=0.6)


def load_mnist_large(
    validation_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    recipe: Recipe = RECIPE,
) -> Dataset:
    """Loads distorted copies of 5,000 images of MNIST; see `load_distorted`.

    Training, validation and test images derive from those that `mnist_5k` has in these splits.

    Args:
      validation_size: validation images (count); None means all 5,000. They are not among the 60,000 training images.
      cache_dir: see `cache_directory`.
      recipe: sizes and strength of distortion.

    Returns:
      60,000 training, 5,000 validation and 10,000 test images, 28x28x1, in [0, 1].

    Raises:
      InputError: if there are fewer validation images.
    """
    return load_distorted(
        "mnist_large", lambda: read_originals(cache_dir), recipe, validation_size=validation_size, cache_dir=cache_dir
    )


def read_originals(cache_dir: str | os.PathLike[str] | None = None) -> Originals:
    """Reads the images of MNIST in the split of `mnist_5k`."""
    stored = mnist_originals(cache_dir)
    images, labels = np.divide(stored["images"], 255, dtype=np.float32), stored["labels"]
    return Originals(images, labels, split_originals(labels))
