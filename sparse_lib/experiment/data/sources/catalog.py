"""From a name to a data set: embedded, an `.npz` file, or TensorFlow Datasets."""

import os
import re
from dataclasses import dataclass, replace

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.dataset import Dataset
from sparse_lib.experiment.data.feeding.preprocessing import preprocessing as preprocessing_named
from sparse_lib.experiment.data.sources.digits import load_digits
from sparse_lib.experiment.data.sources.digits_large import load_digits_large
from sparse_lib.experiment.data.sources.npz import load_npz
from sparse_lib.experiment.data.sources.text import load_text
from sparse_lib.experiment.data.sources.tfds import load_tfds

AUTO = "auto"
AUGMENTATIONS = ("crop_flip", "inception")
_EMBEDDED = ("digits", "digits_large")


@dataclass(frozen=True)
class _Convention:
    """How a set is read where nothing else is asked for."""

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


def load_dataset(
    *,
    name: str = "digits",
    validation_size: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
    preprocessing: str = AUTO,
    augmentation: str | None = AUTO,
    on_disk: bool | None = None,
) -> Dataset:
    """Loads a data set for classification, split and checked, the same in every run.

    Args:
      name: `digits` and `digits_large` are embedded and need no network; a name that ends in
        `.npz` is a file of images, one in `.txt` a text whose characters are predicted; every
        other name is asked of TensorFlow Datasets.
      validation_size: number of images that are held out of training; each kind of set has its
        own default. 0 trains on all of them and leaves the validation split empty.
      data_dir: where TFDS keeps prepared sets, or the folder of the file.
      cache_dir: where generated and decoded arrays are kept; by default `$SPARSE_LIB_CACHE`,
        else `~/.cache/sparse_lib`.
      download: whether TFDS may download and prepare what is not there.
      image_size: height and width that images of a TFDS set are brought to; 224 for imagenet2012.
      preprocessing: what the network sees of pixels: `unit` ([0, 1]), `mean_std` (published statistics of the data
        set), `per_image`, `symmetric` ([-1, 1]), `caffe` or `rigl`. `auto` is `mean_std` for cifar10 and
        cifar100, `rigl` for imagenet2012, `unit` for all others.
      augmentation: `crop_flip`, `inception` (images on disk), or None. `auto` is `crop_flip` for cifar10 and
        cifar100, `inception` for imagenet2012, None for all others.
      on_disk: whether images stay encoded on disk and are decoded while training; None means for imagenet2012.

    Returns:
      The data set.

    Raises:
      ValueError: if the set is not to be had, or its arrays are not fit to train on.
    """
    if validation_size is not None and validation_size < 0:
        raise InputError(f"validation_size is {validation_size}: choose 0 or more.")
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}: choose at least 1 pixel.")
    from_tfds = not name.endswith((".npz", ".txt")) and name not in _EMBEDDED
    if image_size is not None and not from_tfds:
        raise InputError(f"image_size applies to TFDS sets, not to '{name}': leave it out.")
    if on_disk and not from_tfds:
        raise InputError(f"on_disk applies to TFDS sets, not to '{name}': leave it out.")
    if name.endswith(".txt"):
        if preprocessing != AUTO or augmentation not in (AUTO, None):
            raise InputError(
                f"preprocessing and augmentation are for images, not for the text '{name}': leave them out."
            )
        return load_text(name, validation_size=validation_size, data_dir=data_dir)
    plain_name = re.split("[/:]", name)[0]
    how = _convention(plain_name, image_size, preprocessing, augmentation, on_disk)
    kind = preprocessing_named(how.preprocessing, plain_name)
    if name.endswith(".npz"):
        chosen = None if how.preprocessing == _Convention.preprocessing else kind
        return load_npz(
            name,
            validation_size=validation_size,
            data_dir=data_dir,
            preprocessing=chosen,
            augmentation=how.augmentation,
        )
    if name in _EMBEDDED:
        if how.preprocessing != _Convention.preprocessing:
            raise InputError(
                f"preprocessing='{preprocessing}' does not apply to '{name}', which is in [0, 1]: leave it out."
            )
        made = load_digits(validation_size) if name == "digits" else load_digits_large(validation_size, cache_dir)
        return made if how.augmentation is None else replace(made, augmentation=how.augmentation)
    return load_tfds(
        name,
        validation_size=validation_size,
        data_dir=data_dir,
        cache_dir=cache_dir,
        download=download,
        image_size=how.image_size,
        preprocessing=kind,
        augmentation=how.augmentation,
        on_disk=how.on_disk,
    )


def _convention(
    name: str, image_size: int | None, preprocessing: str, augmentation: str | None, on_disk: bool | None
) -> _Convention:
    usual = _CONVENTIONS.get(name, _Convention())
    on_disk = usual.on_disk if on_disk is None else on_disk
    if augmentation == AUTO:
        # A set that is taken into memory at a small size has lost what Inception's crop cuts from.
        augmentation = usual.augmentation if on_disk == usual.on_disk else None
    if augmentation not in (None, *AUGMENTATIONS):
        raise InputError(f"augmentation='{augmentation}' is not known: choose {' or '.join(AUGMENTATIONS)} or None.")
    if augmentation == "inception" and not on_disk:
        raise InputError("augmentation='inception' cuts from whole images: set data.on_disk=True, for a TFDS set.")
    if augmentation == "crop_flip" and on_disk:
        raise InputError("augmentation='crop_flip' is for images in memory: choose 'inception', or data.on_disk=False.")
    if preprocessing == AUTO:
        preprocessing = usual.preprocessing
    return _Convention(preprocessing, augmentation, image_size or usual.image_size, on_disk)
