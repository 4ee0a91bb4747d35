"""From a name to a data set: embedded, an `.npz` file, or TensorFlow Datasets."""

import os

from sparse_lib.experiment.data.arrays import load_npz
from sparse_lib.experiment.data.dataset import Dataset
from sparse_lib.experiment.data.digits import load_digits
from sparse_lib.experiment.data.large import load_digits_large
from sparse_lib.experiment.data.tfds import load_tfds


def load_dataset(
    *,
    name: str = "digits",
    validation_size: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
) -> Dataset:
    """Loads a data set for classification, split and checked, the same in every run.

    Args:
        name: `digits` and `digits_large` are embedded and need no network; a name that ends in
            `.npz` is a file; every other name is asked of TensorFlow Datasets.
        validation_size: Number of images that are held out of training; each kind of set has its
            own default. 0 trains on all of them and leaves the validation split empty.
        data_dir: Where TFDS keeps prepared sets, or the folder of the `.npz` file.
        cache_dir: Where generated and decoded arrays are kept; by default `$SPARSE_LIB_CACHE`,
            else `~/.cache/sparse_lib`.
        download: Whether TFDS may download and prepare what is not there.
        image_size: Height and width that images of a TFDS set are brought to.

    Returns:
        The data set, float32 images and int32 labels in memory.

    Raises:
        ValueError: If the set is not to be had, or its arrays are not fit to train on.
    """
    if validation_size is not None and validation_size < 0:
        raise ValueError(f"validation_size is {validation_size}: choose 0 or more.")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}: choose at least 1 pixel.")
    is_file = name.endswith(".npz")
    if image_size is not None and (is_file or name in ("digits", "digits_large")):
        raise ValueError(f"image_size applies to TFDS sets, not to '{name}': leave it out.")
    if is_file:
        return load_npz(name, validation_size=validation_size, data_dir=data_dir)
    if name == "digits":
        return load_digits(validation_size)
    if name == "digits_large":
        return load_digits_large(validation_size, cache_dir)
    return load_tfds(
        name,
        validation_size=validation_size,
        data_dir=data_dir,
        cache_dir=cache_dir,
        download=download,
        image_size=image_size,
    )
