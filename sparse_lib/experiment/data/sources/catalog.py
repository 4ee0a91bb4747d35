"""Finds the source of a data set by its name: embedded, an `.npz` file, a text, or TensorFlow Datasets."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.dataset import Dataset
from sparse_lib.experiment.data.feeding.preprocessing import preprocessing as preprocessing_named
from sparse_lib.experiment.data.settings import AUTO, SEQUENCES, DataSettings
from sparse_lib.experiment.data.sources.digits import load_digits
from sparse_lib.experiment.data.sources.digits_large import load_digits_large
from sparse_lib.experiment.data.sources.mnist1d import load_mnist1d
from sparse_lib.experiment.data.sources.mnist_5k import load_mnist_5k
from sparse_lib.experiment.data.sources.mnist_large import load_mnist_large
from sparse_lib.experiment.data.sources.npz import load_npz
from sparse_lib.experiment.data.sources.text import load_text
from sparse_lib.experiment.data.sources.tfds import load_tfds

AUGMENTATIONS = ("crop_flip", "inception")

_CacheDir = str | os.PathLike[str] | None
# By name, (validation size, cache directory) -> data set.
LOADERS: dict[str, Callable[[int | None, _CacheDir], Dataset]] = {
    "digits": lambda validation_size, cache_dir: load_digits(validation_size),
    "digits_large": load_digits_large,
    "mnist_5k": load_mnist_5k,
    "mnist_large": load_mnist_large,
    "mnist1d": load_mnist1d,
    "mnist1d_shuffled": functools.partial(load_mnist1d, is_shuffled=True),
}


@dataclasses.dataclass(frozen=True)
class _Convention:
    """How a set is read unless the settings choose otherwise."""

    preprocessing: str = "unit"
    augmentation: str | None = None
    image_size: int | None = None
    on_disk: bool = False


# As in the papers of He et al. 2016 for CIFAR and, for ImageNet, as google-research/rigl trains.
_CONVENTIONS = {
    "cifar10": _Convention("mean_std", "crop_flip"),
    "cifar100": _Convention("mean_std", "crop_flip"),
    "imagenet2012": _Convention("rigl", "inception", 224, on_disk=True),
}


def load_dataset(settings: DataSettings) -> Dataset:
    """Loads a data set for classification, split and checked, the same in every run.

    Args:
      settings: which set, and how it is read.

    Returns:
      The data set.

    Raises:
      InputError: if the set is not to be had, or its arrays are not fit to train on.
    """
    _check(settings)
    if settings.name.endswith(".txt"):
        return load_text(settings.name, validation_size=settings.validation_size, data_dir=settings.data_dir)
    plain_name = re.split("[/:]", settings.name)[0]
    chosen = _resolve(settings, _CONVENTIONS.get(plain_name, _Convention()))
    pixels = preprocessing_named(chosen.preprocessing, plain_name)
    if chosen.is_from_tfds:
        return load_tfds(chosen, pixels)
    is_default = chosen.preprocessing == _Convention.preprocessing
    if not chosen.is_embedded:
        return load_npz(chosen, None if is_default else pixels)
    if not is_default:
        raise InputError(
            f"preprocessing='{settings.preprocessing}' does not apply to '{settings.name}', which is in [0, 1]: leave "
            "it out."
        )
    made = LOADERS[chosen.name](chosen.validation_size, chosen.cache_dir)
    return dataclasses.replace(made, augmentation=chosen.augmentation) if chosen.augmentation else made


def _check(settings: DataSettings) -> None:
    """Refuses numbers out of range, and settings that mean nothing for this kind of set."""
    if settings.validation_size is not None and settings.validation_size < 0:
        raise InputError(f"validation_size is {settings.validation_size}: choose 0 or more.")
    if settings.image_size is not None and settings.image_size < 1:
        raise InputError(f"image_size is {settings.image_size}: choose at least 1 pixel.")
    if settings.image_size is not None and not settings.is_from_tfds:
        raise InputError(f"image_size applies to TFDS sets, not to '{settings.name}': leave it out.")
    if settings.on_disk and not settings.is_from_tfds:
        raise InputError(f"on_disk applies to TFDS sets, not to '{settings.name}': leave it out.")
    is_plain = settings.preprocessing == AUTO and settings.augmentation in (AUTO, None)
    if not is_plain and (settings.name.endswith(".txt") or settings.name in SEQUENCES):
        raise InputError(f"preprocessing and augmentation are for images, not for '{settings.name}': leave them out.")


def _resolve(settings: DataSettings, usual: _Convention) -> DataSettings:
    """Replaces `auto` and None by the convention of the set."""
    augmentation = settings.augmentation
    on_disk = usual.on_disk if settings.on_disk is None else settings.on_disk
    if augmentation == AUTO:
        # A set that is decoded into memory at a small size has lost what Inception's crop cuts from.
        augmentation = usual.augmentation if on_disk == usual.on_disk else None
    if augmentation not in (None, *AUGMENTATIONS):
        raise InputError(f"augmentation='{augmentation}' is not known: choose {' or '.join(AUGMENTATIONS)} or None.")
    if augmentation == "inception" and not on_disk:
        raise InputError("augmentation='inception' cuts from whole images: set data.on_disk=True, for a TFDS set.")
    if augmentation == "crop_flip" and on_disk:
        raise InputError("augmentation='crop_flip' is for images in memory: choose 'inception', or data.on_disk=False.")
    return dataclasses.replace(
        settings,
        preprocessing=usual.preprocessing if settings.preprocessing == AUTO else settings.preprocessing,
        augmentation=augmentation,
        image_size=settings.image_size or usual.image_size,
        on_disk=on_disk,
    )
