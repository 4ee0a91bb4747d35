"""MNIST-sized data sets made of distorted copies of a few thousand originals."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.cache import Arrays, cache_directory, cached_arrays
from sparse_lib.experiment.data.dataset import SPLITS, Dataset, dataset_from_arrays

_LOG = logging.getLogger(__name__)
# Images distorted at once: some ten MB of memory, which fits the CPU's caches.
BLOCK = 250


@dataclass(frozen=True)
class Recipe:
    """Number of images, and strength of their distortion.

    Attributes:
      train: number of training images (count).
      validation: number of validation images (count).
      test: number of test images (count).
      rotation: largest angle (degrees).
      scale: largest change of the logarithm of height and of width, drawn independently.
      shear: largest horizontal shear (pixels per pixel of height).
      shift: largest shift of rows and columns (pixels).
      elastic: standard deviation of the elastic displacement (pixels).
      control_points: points along each side of the grid on which elastic displacements are drawn (count).
      seed: of all draws.
    """

    train: int = 60_000
    validation: int = 5_000
    test: int = 10_000
    rotation: float = 9.0
    scale: float = 0.1
    shear: float = 0.1
    shift: float = 1.0
    elastic: float = 0.6
    control_points: int = 6
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Originals:
    """The images that are distorted.

    Attributes:
      canvas: `[n, size, size]` in [0, 1].
      labels: int32 `[n]`.
      parts: indices of the originals of training, validation and test images, disjoint.
    """

    canvas: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]


def load_distorted(
    name: str,
    read: Callable[[], Originals],
    recipe: Recipe,
    *,
    validation_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads a set of distorted images from the cache, or makes it first (a few seconds).

    Every image is an original resampled through a random affine map (rotation, shear, height, width, shift: uniform)
    plus a smooth random displacement (Gaussian). Training, validation and test images come from disjoint originals,
    each used equally often. Pixels are stored in 256 grey levels, as in MNIST.

    Args:
      name: of the data set.
      read: reads the originals.
      recipe: sizes and strength of distortion.
      validation_size: validation images (count); None means all of the recipe's. They are never among the training
        images.
      cache_dir: see `cache_directory`.

    Returns:
      The data set; images in [0, 1] with one channel.

    Raises:
      InputError: if there are fewer validation images.
    """
    if validation_size is None:
        validation_size = recipe.validation
    if validation_size > recipe.validation:
        raise InputError(
            f"validation_size is {validation_size}, and '{name}' has {recipe.validation} "
            "validation images: choose at most that many."
        )

    def make() -> Arrays:
        _LOG.info("Making the data set %s once: %s images.", name, f"{sum(_counts(recipe)):,}")
        return make_arrays(read(), recipe)

    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    arrays = cached_arrays(cache_directory(cache_dir) / f"{name}-{digest}.npz", make)
    taken = {"train": recipe.train, "validation": validation_size, "test": recipe.test}
    pairs = {key: (arrays[f"x_{key}"][:n], arrays[f"y_{key}"][:n]) for key, n in taken.items()}
    return dataset_from_arrays(name, pairs, num_classes=10)


def make_arrays(originals: Originals, recipe: Recipe) -> Arrays:
    """Makes the images, as a pure function of originals and recipe.

    Args:
      originals: images to distort.
      recipe: sizes and strength of distortion.

    Returns:
      For each split `x_<split>` uint8 `[n, size, size]`, `y_<split>` int32 `[n]`, and `original_<split>` int32 `[n]`,
      the index of the original of each image.
    """
    arrays = {}
    for stream, (split_name, part, count) in enumerate(zip(SPLITS, originals.parts, _counts(recipe), strict=True)):
        rng = np.random.default_rng([recipe.seed, stream])
        chosen = rng.permutation(np.resize(part, count))
        arrays[f"x_{split_name}"] = _distort(originals.canvas, chosen, recipe, rng)
        arrays[f"y_{split_name}"] = originals.labels[chosen]
        arrays[f"original_{split_name}"] = chosen.astype(np.int32)
    return arrays


def _counts(recipe: Recipe) -> tuple[int, int, int]:
    return recipe.train, recipe.validation, recipe.test


def _distort(canvas: np.ndarray, chosen: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    # Geometry in float64, so that rounding to grey levels gives the same on every machine.
    count, points, size = len(chosen), recipe.control_points, canvas.shape[-1]
    linear = _linear_maps(count, recipe, rng)
    shift = rng.uniform(-recipe.shift, recipe.shift, (count, 2, 1))
    bumps = recipe.elastic * rng.standard_normal((count, 2, points, points))
    smooth = smoothing_matrix(points, size)
    axis = np.arange(size) - (size - 1) / 2
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)

    images = np.empty((count, size, size), np.uint8)
    for begin in range(0, count, BLOCK):
        block = slice(begin, begin + BLOCK)
        places = linear[block] @ (grid - shift[block])
        places = places.reshape(-1, 2, size, size) + smooth @ bumps[block] @ smooth.T
        values = _interpolate(canvas, chosen[block], places + (size - 1) / 2)
        images[block] = np.rint(255 * values)
    return images


def _linear_maps(count: int, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Linear maps from coordinates of an image to those of its original, `[count, 2, 2]` over (row, column)."""
    angle = np.deg2rad(rng.uniform(-recipe.rotation, recipe.rotation, count))
    slant = rng.uniform(-recipe.shear, recipe.shear, count)
    stretch = np.exp(rng.uniform(-recipe.scale, recipe.scale, (count, 2, 1)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    unit, zero = np.ones(count), np.zeros(count)
    shear = np.array([[unit, zero], [slant, unit]])
    return (np.moveaxis(turn, -1, 0) @ np.moveaxis(shear, -1, 0)) / stretch


def smoothing_matrix(points: int, size: int) -> npt.NDArray[np.float64]:
    """Weights `[size, points]` that spread unit normals on a grid to unit normals at pixels."""
    knots = np.linspace(0, size - 1, points)
    width = knots[1] - knots[0]
    weights = np.exp(-0.5 * ((np.arange(size)[:, np.newaxis] - knots) / width) ** 2)
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def _interpolate(canvas: np.ndarray, chosen: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolates `canvas[chosen]` bilinearly at `places` `[n, 2, size, size]`, clipped to the edge."""
    size = canvas.shape[-1]
    places = np.clip(places, 0, size - 1)
    corner = np.minimum(places.astype(np.intp), size - 2)
    row, column = np.moveaxis(places - corner, 1, 0)
    first = (chosen[:, np.newaxis, np.newaxis] * size + corner[:, 0]) * size + corner[:, 1]
    pixels = canvas.reshape(-1)
    upper = pixels[first] * (1 - column) + pixels[first + 1] * column
    lower = pixels[first + size] * (1 - column) + pixels[first + size + 1] * column
    return upper * (1 - row) + lower * row
