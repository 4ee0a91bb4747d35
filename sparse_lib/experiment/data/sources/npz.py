"""Image-classification sets from a user's `.npz` file."""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.dataset import Dataset, dataset_from_arrays
from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing
from sparse_lib.experiment.data.holdout import hold_out
from sparse_lib.experiment.data.settings import DataSettings

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_VALIDATION = ("x_val", "y_val")


def load_npz(settings: DataSettings, preprocessing: Preprocessing | None = None) -> Dataset:
    """Loads `x_train, y_train, x_test, y_test` and, where given, `x_val, y_val`.

    Integer images (0 to 255) are divided by 255, bytes may be preprocessed in another way; floats stay as they are.
    Without `x_val`, or with a `validation_size`, the validation images are held out of the training images.

    Args:
      settings: without `auto`. The name is the path of the file, relative to `data_dir` where that is given.
      preprocessing: of images stored as uint8; None means [0, 1].

    Returns:
      The data set; the number of classes is the largest training label plus 1.

    Raises:
      InputError: if the file or an array is missing, or an array has a wrong shape or type.
    """
    name = settings.name
    arrays = _read((Path(settings.data_dir or "") / name).expanduser())
    needed = _REQUIRED + (_VALIDATION if set(_VALIDATION) & set(arrays) else ())
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise InputError(
            f"The file '{name}' has no array {', '.join(missing)}: it needs {', '.join(_REQUIRED)} "
            f"and may have {' with '.join(_VALIDATION)}."
        )
    train = arrays["x_train"], arrays["y_train"]
    if "x_val" in arrays and settings.validation_size is None:
        validation = arrays["x_val"], arrays["y_val"]
    else:
        train, validation = hold_out(*train, settings.validation_size, name=name)
    labels = train[1]
    num_classes = int(labels.max()) + 1 if labels.size and labels.dtype.kind in "iu" else 1
    pairs = {"train": train, "validation": validation, "test": (arrays["x_test"], arrays["y_test"])}
    others = [key for key, (images, _) in pairs.items() if images.dtype != np.uint8]
    if preprocessing is not None and others:
        raise InputError(
            f"data.preprocessing needs images stored as uint8, and split '{others[0]}' of data set '{name}' has "
            f"{pairs[others[0]][0].dtype}: leave it out, or store them so."
        )
    return dataset_from_arrays(
        name, pairs, num_classes, preprocessing=preprocessing, augmentation=settings.augmentation
    )


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
