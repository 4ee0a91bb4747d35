"""Image-classification sets from a user's own `.npz` file."""

import os
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.dataset import Dataset, dataset_from_arrays
from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing
from sparse_lib.experiment.data.holdout import hold_out

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_VALIDATION = ("x_val", "y_val")


def load_npz(
    name: str,
    *,
    validation_size: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | None = None,
    augmentation: str | None = None,
) -> Dataset:
    """Loads `x_train, y_train, x_test, y_test` and, where given, `x_val, y_val`.

    Integer images (0 to 255) are divided by 255, bytes may be preprocessed in another way; floats are taken as they
    are. Without `x_val`,
    or where a size is asked for, the validation images are held out of the training images.

    Args:
      name: path of the file, relative to `data_dir` where that is given.
      validation_size: images to hold out; by default `x_val`, else 5,000 or a tenth of a
        smaller set.
      data_dir: folder of the file.
      preprocessing: of images stored as uint8; None means [0, 1].
      augmentation: as of `Dataset`.

    Returns:
      The data set; the largest training label says how many classes there are.

    Raises:
      ValueError: if the file or an array is not there, or an array is not what it should be.
    """
    arrays = _read((Path(data_dir or "") / name).expanduser())
    needed = _REQUIRED + (_VALIDATION if set(_VALIDATION) & set(arrays) else ())
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise InputError(
            f"The file '{name}' has no array {', '.join(missing)}: it needs {', '.join(_REQUIRED)} "
            f"and may have {' with '.join(_VALIDATION)}."
        )
    train = arrays["x_train"], arrays["y_train"]
    if "x_val" in arrays and validation_size is None:
        validation = arrays["x_val"], arrays["y_val"]
    else:
        train, validation = hold_out(*train, validation_size, name=name)
    labels = train[1]
    num_classes = int(labels.max()) + 1 if labels.size and labels.dtype.kind in "iu" else 1
    pairs = {"train": train, "validation": validation, "test": (arrays["x_test"], arrays["y_test"])}
    others = [key for key, (images, _) in pairs.items() if images.dtype != np.uint8]
    if preprocessing is not None and others:
        raise InputError(
            f"data.preprocessing needs images stored as uint8, and split '{others[0]}' of data set '{name}' has "
            f"{pairs[others[0]][0].dtype}: leave it out, or store them so."
        )
    return dataset_from_arrays(name, pairs, num_classes, preprocessing=preprocessing, augmentation=augmentation)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"There is no file '{path}': correct its name or the data_dir.")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: np.atleast_1d(stored[key]) for key in _REQUIRED + _VALIDATION if key in stored}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"Cannot read '{path}' ({error}): write it with numpy.savez and plain number arrays."
        ) from error
