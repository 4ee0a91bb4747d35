"""`digits`: scikit-learn's 1,797 real handwritten digits, available offline."""

import numpy as np
import numpy.typing as npt

from sparse_lib.experiment.data.dataset import Dataset, Split
from sparse_lib.experiment.data.holdout import split_stratified

SIZE = 28
# MNIST's digits are 20 of 28 pixels wide; so are these, so that the mean square of an image, which sets the scale of
# the first layer's gradient, is MNIST's 0.11.
DIGIT_SIZE = 20
TEST_SIZE = 360
VALIDATION_SIZE = 180

_GREY_LEVELS = 16


def load_digits(validation_size: int | None = None) -> Dataset:
    """Loads the 1,797 digits at 28x28x1 in a fixed stratified split.

    The 8x8 images are enlarged to 20x20 by cubic interpolation and centred on 28x28, as MNIST's digits are. At
    28x28 they carry twice the energy, and the learning rates of the MNIST protocol are too high for them: a pruned MLP
    ends at 45% instead of 97%.

    Args:
      validation_size: images to hold out of the 1,437 that are not test images (count); None means 180.

    Returns:
      1,257 training, 180 validation and 360 test images, the same in every run.

    Raises:
      InputError: if no training image would be left.
    """
    images, labels = digit_originals()
    parts = split_originals(labels, VALIDATION_SIZE if validation_size is None else validation_size)
    rendered = render_digits(images, DIGIT_SIZE)[..., np.newaxis]
    train, validation, test = (Split(rendered[part], labels[part]) for part in parts)
    return Dataset("digits", train, validation, test, num_classes=10)


def digit_originals() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Reads the digits as distributed with scikit-learn.

    Returns:
      Images `[1797, 8, 8]` in [0, 1] and labels `[1797]`.
    """
    # scikit-learn takes a second to import, and other data sets do not need it.
    from sklearn.datasets import load_digits as sklearn_digits  # noqa: PLC0415

    bunch = sklearn_digits()
    return (bunch.images / _GREY_LEVELS).astype(np.float32), bunch.target.astype(np.int32)


def split_originals(
    labels: np.ndarray, validation_size: int = VALIDATION_SIZE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits the originals, stratified by class.

    Args:
      labels: `[n]`.
      validation_size: number of validation images (count).

    Returns:
      Indices of the training, validation and test images.

    Raises:
      InputError: if no training image would be left.
    """
    return split_stratified(labels, test_size=TEST_SIZE, validation_size=validation_size, name="digits")


def render_digits(images: np.ndarray, size: int) -> npt.NDArray[np.float32]:
    """Enlarges 8x8 digits by cubic interpolation and centres them on 28x28.

    Args:
      images: `[n, 8, 8]` in [0, 1].
      size: width of the enlarged digit, at most 28 (pixels); the margin is 0.

    Returns:
      `[n, 28, 28]` in [0, 1].
    """
    from scipy import ndimage  # noqa: PLC0415  (as above)

    # Interpolation is linear and acts on rows and columns alike: one matrix does both.
    width = images.shape[-1]
    weights = ndimage.zoom(np.eye(width), (size / width, 1), order=3, mode="grid-constant", grid_mode=True)
    enlarged = weights @ images.astype(np.float64) @ weights.T
    before = (SIZE - size) // 2
    margin = (before, SIZE - size - before)
    return np.pad(np.clip(enlarged, 0, 1), ((0, 0), margin, margin)).astype(np.float32)
