"""Fixed splits, the same in every run: validation images out of the training images, or all parts stratified."""

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.dataset import require_equal_lengths

_LARGEST_DEFAULT = 5_000
_SEED = 0

_Pair = tuple[np.ndarray, np.ndarray]


def hold_out(
    images: np.ndarray, labels: np.ndarray, size: int | None, *, name: str, seed: int = _SEED
) -> tuple[_Pair, _Pair]:
    """Holds out the end of a seeded permutation of the training images; both parts keep the stored order.

    Args:
      images: `[n, ...]`.
      labels: `[n]`.
      size: images to hold out, less than n (count); None means 5,000, or a tenth of a smaller set.
      name: of the data set, for error messages.
      seed: of the permutation; not a run's seed, so that all runs hold out the same images.

    Returns:
      Images and labels of the training images that stay, and of those held out.

    Raises:
      InputError: if nothing would stay, or lengths differ.
    """
    where, count = f"split 'train' of data set '{name}'", len(labels)
    require_equal_lengths(where, images, labels)
    if size is None:
        size = min(_LARGEST_DEFAULT, max(1, count // 10))
    if not 0 <= size < count:
        raise InputError(
            f"Cannot hold {size} images out of the {where}, which has {count}: "
            "choose a validation_size below that, or give it more images."
        )
    order = np.random.default_rng(seed).permutation(count)
    kept, held = np.sort(order[: count - size]), np.sort(order[count - size :])
    return (images[kept], labels[kept]), (images[held], labels[held])


def split_stratified(
    labels: np.ndarray, *, test_size: int, validation_size: int, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits images that have no published split, stratified by class.

    Args:
      labels: `[n]`.
      test_size: number of test images, the same ones whatever the validation size (count).
      validation_size: number of validation images (count).
      name: of the data set, for error messages.

    Returns:
      Indices of the training, validation and test images.

    Raises:
      InputError: if no training image would be left.
    """
    order = _stratified_order(labels)
    test, rest = order[:test_size], order[test_size:]
    if not 0 <= validation_size < len(rest):
        raise InputError(
            f"validation_size is {validation_size}, and '{name}' has {len(rest)} images beside "
            f"the test images: choose 0 to {len(rest) - 1}."
        )
    return rest[validation_size:], rest[:validation_size], test


def _stratified_order(labels: np.ndarray) -> np.ndarray:
    """A fixed order in which every contiguous piece is stratified by class."""
    shuffled = np.random.default_rng(_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place_within_class = (rank + 0.5) / np.repeat(counts, counts)
    return by_class[np.argsort(place_within_class, kind="stable")]
