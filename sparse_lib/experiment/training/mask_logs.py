"""What a log step writes about masks on demand: images for TensorBoard, and symmetry statistics."""

import math

import keras
import numpy as np

from sparse_lib import mask_symmetry
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.landscape.matching import hidden_units
from sparse_lib.masks import Masks


class MaskLogs:
    """Images and symmetry statistics of masks, if the settings ask for them."""

    def __init__(self, model: keras.Model, masks: Masks, settings: TrainingSettings) -> None:
        """Stores what is logged.

        Args:
          model: the network, which takes images.
          masks: of its kernels.
          settings: log_mask_images and log_mask_symmetry.

        Raises:
          SettingError: if symmetry statistics are asked for, and the layers do not form a chain.
        """
        self._masks, self._input_shape, self._settings = masks, tuple(model.input_shape[1:]), settings
        if settings.log_mask_symmetry:
            check_chain(model, "training.log_mask_symmetry=True")

    def scalars(self) -> dict[str, float]:
        """Counts permutations, unique and zeroed neurons, in total and per kernel.

        Returns:
          Value by name; empty unless training.log_mask_symmetry.
        """
        if not self._settings.log_mask_symmetry:
            return {}
        counts = mask_symmetry.count_symmetry([mask.numpy() for mask in self._masks.values()])
        named = {"": mask_symmetry.sum_symmetry(counts)}
        named |= {f"/{name}": count for name, count in zip(self._masks.names, counts, strict=True)}
        scalars: dict[str, float] = {}
        for suffix, count in named.items():
            scalars[f"mask_permutations_log10{suffix}"] = count.log10_permutations
            scalars[f"unique_neurons{suffix}"] = count.unique
            scalars[f"zeroed_neurons{suffix}"] = count.zeroed
        return scalars

    def active_weights(self) -> dict[str, np.ndarray]:
        """Returns the active weights of every kernel that has any, by name."""
        named = zip(self._masks.names, self._masks.kernels, self._masks.values(), strict=True)
        values = {f"active_weights/{name}": kernel.numpy()[mask.numpy()] for name, kernel, mask in named}
        return {name: array for name, array in values.items() if array.size}

    def images(self) -> dict[str, np.ndarray]:
        """Draws every mask, an active weight in white, and the connections of the input pixels.

        Returns:
          Grey levels [height, width], uint8, by name; empty unless training.log_mask_images.
        """
        if not self._settings.log_mask_images:
            return {}
        masks = dict(zip(self._masks.names, (mask.numpy() for mask in self._masks.values()), strict=True))
        drawn = {f"mask/{name}": np.uint8(255) * mask.reshape(-1, mask.shape[-1]) for name, mask in masks.items()}
        name, mask = next(iter(masks.items()))
        if mask.ndim == 2 and len(mask) == math.prod(self._input_shape) and min(self._input_shape[:2]) > 1:
            drawn[f"input_pixels/{name}"] = _draw_pixels(mask, self._input_shape)
        return drawn


def check_chain(model: keras.Model, setting: str) -> None:
    """Checks that the layers of a network form a chain.

    Args:
      model: the network.
      setting: that needs it, with its value.

    Raises:
      SettingError: if they do not.
    """
    try:
        hidden_units(model)
    except InputError as error:
        raise SettingError(f"{setting} does not apply to this network: {error}") from error


def _draw_pixels(mask: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray:
    """Active connections of each pixel over all channels, the largest number in white."""
    counts = mask.sum(axis=1).reshape(*input_shape[:2], -1).sum(axis=-1)
    return np.rint(255 * counts / max(counts.max(), 1)).astype(np.uint8)
