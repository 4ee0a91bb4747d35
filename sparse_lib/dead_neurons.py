"""Dead units: disconnected by the masks, or inactive on data."""

from collections import Counter
from collections.abc import Sequence

import keras
import tensorflow as tf

from sparse_lib import objective
from sparse_lib._keras import tracing
from sparse_lib._keras.layer_types import is_rectifier
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.sums import sum_in_order


def zero_fan_in(mask: tf.Tensor) -> tf.Tensor:
    """Marks the output units of a kernel that have no active weight.

    Args:
      mask: boolean mask of shape [..., in, out].

    Returns:
      Booleans of shape [out].
    """
    return ~tf.reduce_any(mask, axis=list(range(mask.shape.rank - 1)))


def zero_fan_out(mask: tf.Tensor) -> tf.Tensor:
    """Marks the input units of a kernel that have no active weight.

    Args:
      mask: boolean mask of shape [..., in, out].

    Returns:
      Booleans of shape [in].
    """
    rank = mask.shape.rank
    return ~tf.reduce_any(mask, axis=[axis for axis in range(rank) if axis != rank - 2])


def structurally_dead(masks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Marks the units of a chain of layers with zero fan-in or zero fan-out.

    Where a kernel has k times as many inputs as the kernel before has outputs, k positions per channel are assumed to
    be flattened, channels last: a unit is dead if all its positions are unread.

    Args:
      masks: boolean masks [..., in, out] of consecutive kernels.

    Returns:
      Booleans of shape [out] for each kernel; the units of the last layer are dead only without fan-in.

    Raises:
      ValueError: if the masks do not fit together as a chain.
    """
    dead = [zero_fan_in(mask) for mask in masks]
    for index, mask in enumerate(masks[1:]):
        units, inputs = dead[index].shape[0], mask.shape[-2]
        if inputs % units:
            raise InputError(
                f"Kernel {index + 1} has {inputs} inputs, which does not fit the {units} units of "
                f"kernel {index}: pass the masks of consecutive layers in order."
            )
        unread = tf.reduce_all(tf.reshape(zero_fan_out(mask), [-1, units]), axis=0)
        dead[index] = dead[index] | unread
    return dead


class UnitProbe:
    """Measures the activity of units on a batch.

    Uses the model's current variables at inference and changes no state; works in eager mode and inside `tf.function`,
    for functional, sequential and subclassed models. Only activations that are layers or given as `activation=` are
    seen, not plain functions (`keras.ops.relu(x)`).

    Attributes:
      layers: the probed layers by name; by path where several layers have the same name.
    """

    def __init__(self, model: keras.Model, layers: Sequence[str] | None = None) -> None:
        """Selects the layers.

        Args:
          model: a built model.
          layers: names of the layers to probe; None for every layer that is a rectifier or ends in
            one, such as ReLU, GELU or SiLU.

        Raises:
          ValueError: if the model has no layer of a given name.
        """
        self._model = model
        candidates = tracing.all_layers(model)
        repeated = Counter(layer.name for layer in candidates)
        named = {layer.path if repeated[layer.name] > 1 else layer.name: layer for layer in candidates}
        if layers is None:
            self.layers = {name: layer for name, layer in named.items() if is_rectifier(layer)}
            return
        unknown = [name for name in layers if name not in named]
        if unknown:
            raise InputError(
                f"Model {model.name!r} has no layers {', '.join(unknown)}: choose from {', '.join(named)}."
            )
        self.layers = {name: named[name] for name in layers}

    def mean_absolute(self, x: tf.Tensor, params: Sequence[tf.Tensor] | None = None) -> dict[str, tf.Tensor]:
        """Mean absolute activation E|h_i| of every unit, over examples and positions.

        Args:
          x: inputs of the model.
          params: trainable values in the order of `model.trainable_variables`; None for the
            current ones.

        Returns:
          A tensor of shape [units] for each probed layer that the model calls, in order of the
          first call; a layer that is called repeatedly is averaged over its calls.
        """
        replaced = [] if params is None else self._model.trainable_variables
        with tracing.watch(list(self.layers.values())) as calls:
            objective.call(self._model, replaced, params or [], x)
        by_layer: dict[int, list[tf.Tensor]] = {}
        for layer, _, outputs in calls:
            by_layer.setdefault(id(layer), []).append(_mean_over_units(layer, outputs))
        names = {id(layer): name for name, layer in self.layers.items()}
        return {names[key]: sum_in_order(means) / len(means) for key, means in by_layer.items()}


def dormant_fraction(mean_absolute: tf.Tensor, tau: float = 0.0) -> tf.Tensor:
    """Fraction of tau-dormant units of a layer (Sokar et al. 2023, section 3).

    s_i = E|h_i| / mean_k E|h_k| <= tau

    Args:
      mean_absolute: E|h_i| of each unit, shape [units].
      tau: threshold of the score; 0 counts units that are inactive on all data.

    Returns:
      A float32 scalar; 1 if the whole layer is inactive.

    Raises:
      ValueError: if tau is negative.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import dead_neurons
      >>> float(dead_neurons.dormant_fraction(tf.constant([0.0, 1.0, 3.0, 0.0])))
      0.5
    """
    return tf.reduce_mean(tf.cast(is_dormant(mean_absolute, tau), tf.float32))


def is_dormant(mean_absolute: tf.Tensor, tau: float = 0.0) -> tf.Tensor:
    """Marks the tau-dormant units of a layer, see `dormant_fraction`.

    Args:
      mean_absolute: E|h_i| of each unit, shape [units].
      tau: threshold of the score; 0 marks units that are inactive on all data.

    Returns:
      Booleans of shape [units].

    Raises:
      ValueError: if tau is negative.
    """
    if tau < 0:
        raise InputError(f"tau must be at least 0, got {tau}.")
    # Not as a quotient, which would be 0 / 0 for an inactive layer.
    return mean_absolute <= tau * tf.reduce_mean(mean_absolute)


def _mean_over_units(layer: keras.Layer, outputs: tf.Tensor) -> tf.Tensor:
    """Mean absolute output of each channel."""
    rank = outputs.shape.rank
    data_format = getattr(layer, "data_format", None) or keras.config.image_data_format()
    channels = 1 if data_format == "channels_first" and rank > 3 else rank - 1
    wide = outputs if outputs.dtype == tf.float64 else tf.cast(outputs, tf.float32)
    return tf.reduce_mean(tf.abs(wide), axis=[axis for axis in range(rank) if axis != channels])
