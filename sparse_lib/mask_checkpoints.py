"""Masks of checkpoints: of a run of the suite, of `tf.train.Checkpoint(masks=...)`, and of weights saved by Keras."""

import io
import os
import pathlib
import re
import zipfile
from collections.abc import Mapping

import h5py
import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_NUMBER = re.compile(r"-(\d+)$")
_KERAS = (".h5", ".keras")
# Where Keras keeps the variables of an optimizer in a file of weights.
_OPTIMIZER = "optimizer/vars"
_WEIGHTS = "model.weights.h5"

Arrays = dict[str, np.ndarray]


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a path is one of a checkpoint, a directory with checkpoints, or a file of weights saved by Keras.

    Args:
      path: with or without the suffix `.index`.
    """
    text = os.fspath(path)
    return text.endswith(_KERAS) or os.path.isdir(text) or os.path.exists(f"{text.removesuffix('.index')}.index")


def read(path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]) -> list[np.ndarray]:
    """Reads the masks of some kernels.

    Args:
      path: a checkpoint (`runs/prune/ckpt-500`), a directory, which stands for its last one, or a `.weights.h5` or
        `.keras` file of a model that was compiled with a `SparseOptimizer`.
      shapes: shape of each kernel by name. A run of the suite stores masks by name, all others by order.

    Returns:
      One boolean array per kernel.

    Raises:
      InputError: if there is no such checkpoint, it has no masks, or they do not fit.
    """
    text = os.fspath(path)
    try:
        stored = _of_keras(text) if text.endswith(_KERAS) else _of_tensorflow(_find(text))
    except (tf.errors.OpError, OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a checkpoint: give another, or a file of masks.save.") from error
    if not stored:
        raise InputError(
            f"{path} has no masks: give a checkpoint of a sparse run, of tf.train.Checkpoint(masks=masks), or weights "
            "of a model compiled with a SparseOptimizer."
        )
    by_order = all(key.isdecimal() for key in stored)
    if by_order and len(stored) == len(shapes):
        stored = dict(zip(shapes, (stored[key] for key in sorted(stored, key=int)), strict=True))
    elif not by_order:
        # Names in checkpoints have dots for slashes.
        stored = {name: stored[key] for name in shapes if (key := name.replace("/", ".")) in stored}
    found = {name: tuple(value.shape) for name, value in stored.items()}
    if found != dict(shapes):
        raise InputError(
            f"The masks of {path} are of kernels {_describe(found)}, and this network has {_describe(shapes)}: build "
            "the same network, and choose the same kernels with include= and exclude=."
        )
    return [stored[name].astype(bool) for name in shapes]


def _describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()) or "none of that name"


def _find(path: str) -> str:
    prefix = path.removesuffix(".index")
    if not os.path.isdir(prefix):
        return prefix
    files = [file.with_suffix("") for file in pathlib.Path(prefix).glob("*.index")]
    numbered = {int(match[1]): str(file) for file in files if (match := _NUMBER.search(file.name))}
    if not numbered:
        raise InputError(f"{path} has no checkpoint: give a directory with files such as ckpt-500.index.")
    return numbered[max(numbered)]


def _of_tensorflow(prefix: str) -> Arrays:
    reader = tf.train.load_checkpoint(prefix)
    stored = {}
    for key in reader.get_variable_to_shape_map():
        match = re.fullmatch(rf"masks/(?:variables_by_kernel/)?([^/]+){re.escape(_VALUE)}", key)
        if match:
            stored[match[1].replace("..", ".")] = reader.get_tensor(key)
    return stored


def _of_keras(path: str) -> Arrays:
    """Masks, the first half of the boolean variables of a SparseOptimizer; the other half is what was explored."""
    if path.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            source: io.BytesIO | str = io.BytesIO(archive.read(_WEIGHTS))
    else:
        source = path
    with h5py.File(source, "r") as file:
        group = file.get(_OPTIMIZER, {})
        keys = sorted((key for key in group if key.isdecimal() and group[key].dtype == bool), key=int)
        return {str(i): np.array(group[key]) for i, key in enumerate(keys[: len(keys) // 2])}
