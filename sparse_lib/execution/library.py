"""The compiled library of sparse products: loaded once, when it is first needed."""

import ctypes
import functools
import os
from pathlib import Path
from types import ModuleType

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.execution.native.build import LIBRARY


@functools.cache
def _load(path: Path) -> tuple[ModuleType | None, str]:
    """Returns the operations, or the reason why there are none."""
    if not path.exists():
        return None, "The library of sparse products is not built: run `python -m sparse_lib.execution.native.build`."
    try:
        return tf.load_op_library(str(path)), ""
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        message = str(error).splitlines()[0]
        return None, f"The library of sparse products cannot be loaded: {message}"


def available() -> bool:
    """Says whether the sparse products can run here."""
    return _load(LIBRARY)[0] is not None


def reason() -> str:
    """Returns one sentence that says why the sparse products cannot run here; empty where they can."""
    return _load(LIBRARY)[1]


def operations() -> ModuleType:
    """Returns the module of the library's operations.

    Raises:
      InputError: the library is not built, or cannot be loaded.
    """
    module, why_not = _load(LIBRARY)
    if module is None:
        raise InputError(why_not)
    _follow_tensorflow()
    return module


@functools.cache
def _symbols() -> ctypes.CDLL:
    return ctypes.CDLL(str(LIBRARY))


@functools.cache
def _follow_tensorflow() -> None:
    """Takes over TensorFlow's number of threads at the first product; TensorFlow cannot change it afterwards either."""
    _set_threads(tf.config.threading.get_intra_op_parallelism_threads())


def _set_threads(count: int) -> None:
    _symbols().sparse_set_threads(count or len(os.sched_getaffinity(0)))


def use_threads(count: int) -> None:
    """Sets the number of threads of a product; results do not depend on it.

    Args:
      count: number of threads; 0 means one for each CPU that this process may use.
    """
    if count < 0:
        raise InputError(f"The number of threads must not be negative, but it is {count}.")
    operations()
    _set_threads(count)
