"""Mask files: one bit per weight, in a NumPy archive."""

import os
import re
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_lib._utils.atomic import atomic_path
from sparse_lib._utils.errors import InputError


class StoredMasks(NamedTuple):
    """Masks read from a file, one per kernel.

    Attributes:
      names: of the kernels, such as `conv1/kernel`.
      values: boolean arrays with the shapes of the kernels.
      structures: of the masks, such as `2:4`.
    """

    names: list[str]
    values: list[np.ndarray]
    structures: list[str]


def write(path: str | os.PathLike[str], masks: StoredMasks) -> None:
    """Writes masks atomically.

    The archive holds `names`, `structures`, and for the i-th kernel `shape_i` and `bits_i`, the row-major entries
    packed by `np.packbits`.

    Args:
      path: of the file; no suffix is appended.
      masks: to write.
    """
    arrays: dict[str, Any] = {"names": np.array(masks.names, str), "structures": np.array(masks.structures, str)}
    for i, value in enumerate(masks.values):
        arrays |= {f"shape_{i}": np.array(value.shape, np.int64), f"bits_{i}": np.packbits(value)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read(path: str | os.PathLike[str]) -> StoredMasks:
    """Reads masks.

    Args:
      path: of a file written by `write`.

    Returns:
      The masks.

    Raises:
      InputError: if the file does not hold masks.
    """
    try:
        with np.load(path) as archive:
            names, structures = archive["names"].tolist(), archive["structures"].tolist()
            values = [_unpack(archive[f"bits_{i}"], archive[f"shape_{i}"]) for i in range(len(names))]
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} holds no masks, or not all of them: give a file that masks.save(path) wrote."
        ) from error
    return StoredMasks(names, values, structures)


def check_same_kernels(
    source: str,
    names: Sequence[str],
    shapes: Sequence[Sequence[int]],
    own: Sequence[str],
    own_shapes: Sequence[Sequence[int]],
) -> None:
    """Checks that masks of one network fit the kernels of another, by order, shape and name.

    Args:
      source: origin of the masks, for the message.
      names: of the kernels that the masks were created for.
      shapes: of these kernels.
      own: names of the kernels that the masks are applied to.
      own_shapes: of those kernels.

    Raises:
      InputError: names the first kernel that differs, or the numbers of kernels. Names may differ in the numbers that
        Keras appends to repeated ones, as in `dense_3/kernel`, and one may be the end of the other's path.
    """
    if len(names) != len(own):
        raise InputError(
            f"The masks from {source} are of {len(names)} kernels ({', '.join(names)}) and this network has {len(own)} "
            f"sparse ones ({', '.join(own)}): choose the same ones with include= and exclude=."
        )
    for name, shape, own_name, own_shape in zip(names, shapes, own, own_shapes, strict=True):
        if tuple(shape) != tuple(own_shape):
            raise InputError(
                f"The mask of {name} from {source} is of shape {tuple(shape)} and kernel {own_name} of shape "
                f"{tuple(own_shape)}: build the network with the same layers in the same order."
            )
    is_reordered = sorted(names) == sorted(own)
    for name, own_name in zip(names, own, strict=True):
        if name != own_name and (is_reordered or not _may_be_same_layer(name, own_name)):
            raise InputError(
                f"The mask of {name} from {source} would be put on kernel {own_name}: build the network with the same "
                "layers in the same order, and give them the same names."
            )


def _may_be_same_layer(name: str, other: str) -> bool:
    """Compares names without the numbers that Keras appends to repeated ones; a short name is the end of a path."""
    one, two = (re.sub(r"_\d+(?=/|$)", "", text).split("/") for text in (name, other))
    shared = min(len(one), len(two))
    return one[-shared:] == two[-shared:]


def _unpack(bits: np.ndarray, shape: np.ndarray) -> np.ndarray:
    count = int(np.prod(shape))
    return np.unpackbits(bits, count=count).astype(bool).reshape(shape)
