"""`digits_large`: an MNIST-sized data set of distorted copies of `digits`."""

import os

from sparse_lib.experiment.data.dataset import Dataset
from sparse_lib.experiment.data.sources.digits import DIGIT_SIZE, digit_originals, render_digits, split_originals
from sparse_lib.experiment.data.sources.distortion import Originals, Recipe, load_distorted

# About as hard as MNIST: a dense LeNet5 trained by the protocol of arXiv 2010.03533 (11,719 steps of 128 images)
# reaches a test accuracy of 99.1 to 99.4%, 99.2% on average over five seeds. Pixels have a mean of 0.16 and a standard
# deviation of 0.29 (MNIST 0.13 and 0.31).
RECIPE = Recipe(rotation=9.0, scale=0.1, shear=0.1, shift=1.0, elastic=0.6)


def load_digits_large(
    validation_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    recipe: Recipe = RECIPE,
) -> Dataset:
    """Loads distorted copies of scikit-learn's digits; see `load_distorted`.

    Training, validation and test images derive from those that `digits` has in these splits, 20 pixels wide.

    Args:
      validation_size: validation images (count); None means all 5,000. They are not among the 60,000 training images.
      cache_dir: see `cache_directory`.
      recipe: sizes and strength of distortion.

    Returns:
      60,000 training, 5,000 validation and 10,000 test images, 28x28x1, in [0, 1].

    Raises:
      InputError: if there are fewer validation images.
    """
    return load_distorted("digits_large", read_originals, recipe, validation_size=validation_size, cache_dir=cache_dir)


def read_originals() -> Originals:
    """Reads the digits, enlarged to MNIST's size, in the split of `digits`."""
    images, labels = digit_originals()
    return Originals(render_digits(images, DIGIT_SIZE), labels, split_originals(labels))
