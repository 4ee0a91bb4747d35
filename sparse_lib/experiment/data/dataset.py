"""A classification data set, mostly of images, checked before anything trains on it."""

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.feeding.pixels import Pixels, pixels
from sparse_lib.experiment.data.feeding.preprocessing import LARGEST_PIXEL, Preprocessing
from sparse_lib.experiment.data.sources.tfrecords import EncodedImages

# Number of training images on disk whose loss is reported; all of ImageNet's would take as long as an epoch.
REPORTED = 50_000
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
      images: float32 `[n, height, width, channels]`, usually in [0, 1], or `[n, length, channels]` of sequences: a
        contiguous array, or an object with the same indexing, `images[rows]`, that keeps bytes in memory (`Pixels`) or
        encoded files on disk (`EncodedImages`).
      labels: int32 `[n]`, class indices.
    """

    images: npt.NDArray[np.float32] | Pixels | EncodedImages
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
        """Iterates over the split once, in order.

        Args:
          size: images per batch (count).

        Yields:
          Images and labels; images on disk are decoded ahead.
        """
        starts = range(0, len(self), size)
        if isinstance(self.images, EncodedImages):
            images = self.images.batches(size)
        else:
            images = (self.images[start : start + size] for start in starts)
        for start, batch in zip(starts, images, strict=True):
            yield batch, self.labels[start : start + size]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits of one data set.

    Attributes:
      name: `data.name`.
      train: the training images.
      validation: held out of the training images; empty only if `data.validation_size` is 0.
      test: the images of the reported accuracy.
      num_classes: labels lie in `[0, num_classes)`.
      augmentation: of the training images: `crop_flip`, `inception` or None.

    Raises:
      InputError: if a split is empty, images and labels differ in length, images are not finite or differ in shape
        between splits, or a label is out of range.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    augmentation: str | None = None

    def __post_init__(self) -> None:
        for split_name in ("train", "validation", "test"):
            split: Split = getattr(self, split_name)
            where = f"split '{split_name}' of data set '{self.name}'"
            if not len(split.images) and split_name != "validation":
                raise InputError(f"The {where} is empty: give it at least one image.")
            _check_split(where, split, self.num_classes)
            if split.images.shape[1:] != self.input_shape:
                raise InputError(
                    f"The {where} has images of shape {list(split.images.shape[1:])} and 'train' "
                    f"of {list(self.input_shape)}: bring them to one shape."
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image, or length and channels of a sequence."""
        return tuple(self.train.images.shape[1:])

    @property
    def reported(self) -> dict[str, Split]:
        """The splits whose losses are reported; of training images on disk the first 50,000, unaugmented."""
        train = self.train
        if isinstance(train.images, EncodedImages):
            train = Split(train.images.take(slice(REPORTED)), train.labels[:REPORTED])
        return {"train": train, "validation": self.validation, "test": self.test}


def split_from_arrays(
    where: str, images: np.ndarray, labels: np.ndarray, preprocessing: Preprocessing | None = None
) -> Split:
    """Converts stored arrays to the types of a `Split`.

    Args:
      where: names the split in error messages.
      images: `[n, height, width]` or `[n, height, width, channels]`. Integers (0 to 255) are divided by 255; floats
        stay as they are.
      labels: integers `[n]`.
      preprocessing: of bytes, which are stored as they are and preprocessed when they are read.

    Returns:
      The split; its values are checked when a `Dataset` is made of it.

    Raises:
      InputError: for another rank or type.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4:
        raise InputError(
            f"The {where} has images of rank {images.ndim}: "
            "store them as [n, height, width] or [n, height, width, channels]."
        )
    if labels.ndim != 1:
        raise InputError(f"The {where} has labels of rank {labels.ndim}: store one class index per image, [n].")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"The {where} has labels of type {labels.dtype}: store class indices as integers.")
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise InputError(f"The {where} has {_out_of_range(labels)}: class indices count from 0.")
    if preprocessing is not None and images.dtype == np.uint8:
        return Split(pixels(images, preprocessing), labels.astype(np.int32))
    return Split(_scale_to_unit(where, images), labels.astype(np.int32))


def require_equal_lengths(where: str, images: Sized, labels: Sized) -> None:
    """Raises InputError unless there is one label per image; `where` names the split in its message."""
    if len(images) != len(labels):
        raise InputError(f"The {where} has {len(images)} images but {len(labels)} labels: store one label per image.")


def dataset_from_arrays(
    name: str,
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]],
    num_classes: int,
    *,
    preprocessing: Preprocessing | None = None,
    augmentation: str | None = None,
) -> Dataset:
    """Makes a checked `Dataset` from stored images and labels.

    Args:
      name: of the data set.
      arrays: images and labels of `train`, `validation` and `test`, as for `split_from_arrays`.
      num_classes: number of classes (count).
      preprocessing: as for `split_from_arrays`.
      augmentation: as of `Dataset`.

    Returns:
      The data set.

    Raises:
      InputError: as `split_from_arrays` and `Dataset`.
    """
    splits = {
        split_name: split_from_arrays(f"split '{split_name}' of data set '{name}'", *pair, preprocessing)
        for split_name, pair in arrays.items()
    }
    return Dataset(name, splits["train"], splits["validation"], splits["test"], num_classes, augmentation)


def _scale_to_unit(where: str, images: np.ndarray) -> npt.NDArray[np.float32]:
    if np.issubdtype(images.dtype, np.floating):
        return np.ascontiguousarray(images, np.float32)
    if not np.issubdtype(images.dtype, np.integer):
        raise InputError(f"The {where} has images of type {images.dtype}: store integers (0 to 255) or floats.")
    if images.size and images.dtype != np.uint8:
        lowest, highest = images.min(), images.max()
        if lowest < 0 or highest > LARGEST_PIXEL:
            raise InputError(
                f"The {where} has integer pixels from {lowest} to {highest}: "
                f"store 0 to {LARGEST_PIXEL}, or floats that are scaled already."
            )
    scaled = np.empty(images.shape, np.float32)
    return np.divide(images, np.float32(LARGEST_PIXEL), out=scaled)


def _check_split(where: str, split: Split, num_classes: int) -> None:
    images, labels = split.images, split.labels
    array = images if isinstance(images, np.ndarray) else None
    is_layout = images.ndim in (3, 4) and images.dtype == np.float32
    if not is_layout or (array is not None and not array.flags.c_contiguous):
        raise InputError(
            f"The {where} needs contiguous float32 images [n, height, width, channels] or sequences "
            f"[n, length, channels], not {images.dtype} {list(images.shape)}: convert them first."
        )
    if labels.ndim != 1 or labels.dtype != np.int32:
        raise InputError(
            f"The {where} needs int32 labels [n], not {labels.dtype} {list(labels.shape)}: convert them first."
        )
    require_equal_lengths(where, images, labels)
    # min and max propagate NaN and infinity without a temporary of the images' size.
    if array is not None and array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        raise InputError(
            f"The {where} has NaN or infinite pixels in {len(bad)} images (the first is image "
            f"{bad[0]}): repair or remove them."
        )
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise InputError(
            f"The {where} has {_out_of_range(labels, num_classes)}: "
            f"with {num_classes} classes they run from 0 to {num_classes - 1}."
        )


def _out_of_range(labels: np.ndarray, num_classes: int | None = None) -> str:
    limit = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    position = int(np.flatnonzero((labels < 0) | (labels > limit))[0])
    return f"the label {labels[position]} at image {position}"
