"""Images in memory at one byte per value, normalised as they are read."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing

# Images whose statistics are computed at once: their float64 copy stays small.
_BLOCK = 1000


@dataclass(frozen=True, eq=False)
class Pixels:
    """Bytes with the indexing of a float32 array: `images[rows]` is (values[rows] - offset) / scale.

    Attributes:
      values: uint8 `[n, height, width, channels]`.
      offset: float32 `[1, 1, 1, channels or 1]`, or `[n, 1, 1, 1]`, one per image.
      scale: float32, of the same shape as `offset`.
    """

    values: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]

    dtype = np.dtype(np.float32)
    ndim = 4

    @property
    def shape(self) -> tuple[int, ...]:
        """Count, height, width and channels."""
        return self.values.shape

    @property
    def per_image(self) -> bool:
        """Whether each image has its own offset and scale."""
        return len(self.offset) != 1

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> npt.NDArray[np.float32]:
        own = rows if self.per_image else 0
        return (self.values[rows].astype(np.float32) - self.offset[own]) / self.scale[own]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def pixels(values: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> Pixels:
    """Wraps images that are normalised as they are read.

    Args:
      values: uint8 `[n, height, width, channels]`.
      preprocessing: mean and standard deviation, or those of each image.

    Returns:
      The images.
    """
    if preprocessing.reverses_channels:
        values = values[..., ::-1]
    values = np.ascontiguousarray(values)
    if preprocessing.per_image and len(values):
        return Pixels(values, *_statistics(values))
    offset, scale = (
        np.asarray(each, np.float32).reshape(1, 1, 1, -1) for each in (preprocessing.mean, preprocessing.std)
    )
    return Pixels(values, offset, scale)


def _statistics(values: npt.NDArray[np.uint8]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each image, each float32 `[n, 1, 1, 1]`."""
    means, deviations = [], []
    for begin in range(0, len(values), _BLOCK):
        flat = values[begin : begin + _BLOCK].reshape(-1, values[0].size).astype(np.float64)
        means.append(flat.mean(axis=1))
        deviations.append(np.maximum(flat.std(axis=1), values[0].size ** -0.5))
    offset, scale = (np.concatenate(parts).astype(np.float32)[:, None, None, None] for parts in (means, deviations))
    return offset, scale
