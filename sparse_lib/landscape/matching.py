"""Weight matching: permutations of hidden units that minimize the distance of two solutions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from scipy.optimize import linear_sum_assignment

from sparse_lib._keras import tracing
from sparse_lib._keras.graph import NoChainError, traced_graph
from sparse_lib._keras.layer_types import (
    DENSE_OR_CONVOLUTION,
    DEPTHWISE_CONVOLUTIONS,
    PERMUTATION_EQUIVARIANT,
    PERMUTATION_EQUIVARIANT_NORMALIZATIONS,
    is_channels_last,
)
from sparse_lib._keras.tracing import Shape
from sparse_lib._utils.errors import InputError
from sparse_lib.landscape.paths import Values

# The axes of a variable that run over hidden units: (axis, name of the layer that outputs these units).
Axes = tuple[tuple[int, str], ...]
Permutations = Mapping[str, np.ndarray]

_PERMUTABLE = (
    *DENSE_OR_CONVOLUTION,
    *DEPTHWISE_CONVOLUTIONS,
    *PERMUTATION_EQUIVARIANT,
    *PERMUTATION_EQUIVARIANT_NORMALIZATIONS,
)
# Gains below this share of the largest entry are rounding error.
_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Matching:
    """A permutation of the hidden units of a network.

    Attributes:
      permutations: by layer, an integer array [units]: unit i of the permuted solution is unit
        `permutations[layer][i]` of the original one.
      distance_before: L2 distance of the trainable values of the two solutions.
      distance: the same after the permutation.
      hidden: which axes of which variables run over hidden units.
    """

    permutations: Permutations
    distance_before: float
    distance: float
    hidden: "HiddenUnits"

    def permute(self, variables: Sequence[keras.Variable], values: Sequence[Any]) -> list[np.ndarray]:
        """Permutes values of any variables: weights, batch-norm statistics, masks, optimizer slots.

        A network whose weights and statistics are all permuted computes the same function.

        Args:
          variables: of the matched model, such as `model.trainable_variables` or `masks.kernels`.
          values: one array per variable, of its shape.

        Returns:
          Arrays of the same shapes and dtypes.
        """
        pairs = zip(variables, values, strict=True)
        return [_permute(np.asarray(value), self.hidden.axes.get(id(v), ()), self.permutations) for v, value in pairs]


class HiddenUnits(NamedTuple):
    """The hidden units of a network whose layers form a chain.

    Attributes:
      units: by layer name, the number of its output units (count).
      axes: by `id` of the variable, its axes over hidden units; every weight of the network has an entry.
    """

    units: Mapping[str, int]
    axes: Mapping[int, Axes]


def match(
    model: keras.Model,
    reference: Sequence[Any],
    params: Sequence[Any],
    *,
    seed: int = 0,
    restarts: int = 5,
    input_shape: Shape | None = None,
) -> Matching:
    """Permutes the hidden units of one solution to bring it close to another, by coordinate descent.

    P = argmin || reference - P params ||^2 = argmax < reference, P params >

    Weight matching of Ainsworth et al. 2022 (Git Re-Basin, section 3.2, Algorithm 1): with the permutations of all
    other layers fixed, the best one of a layer is a linear assignment; the layers are swept in random order until none
    improves. The result is optimal with one hidden layer and a local optimum with more, the best of several starts:
    the identity and random permutations.

    Args:
      model: a built network whose layers form a chain, see `hidden_units`; its own values are not read.
      reference: trainable values of the fixed solution, in the order of `model.trainable_variables`.
      params: trainable values of the solution to permute.
      seed: seed of the order of the layers and of the random starts.
      restarts: number of starts (count).
      input_shape: of one example without the batch dimension; needed for subclassed models.

    Returns:
      The permutation; `permute` applies it.

    Raises:
      ValueError: if the layers do not form a chain, values do not fit, or restarts is below 1.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import landscape
      >>> model = keras.Sequential(
      ...     [keras.Input((1,)), keras.layers.Dense(2, "relu", name="hidden"), keras.layers.Dense(1)]
      ... )
      >>> one = [np.array([[1.0, 2.0]]), np.array([3.0, 4.0]), np.array([[5.0], [6.0]]), np.array([7.0])]
      >>> other = [np.array([[2.0, 1.0]]), np.array([4.0, 3.0]), np.array([[6.0], [5.0]]), np.array([7.0])]
      >>> found = landscape.match(model, one, other)
      >>> found.permutations["hidden"].tolist()
      [1, 0]
      >>> found.distance
      0.0
    """
    if restarts < 1:
        raise InputError(f"restarts={restarts} leaves no start: choose at least 1.")
    found = hidden_units(model, input_shape)
    variables = model.trainable_variables
    fixed, moving = _as_arrays(variables, reference), _as_arrays(variables, params)
    problem = _Problem([found.axes[id(v)] for v in variables], fixed, moving, found.units)
    starts = [problem.descend(np.random.default_rng([seed, start]), shuffled=start > 0) for start in range(restarts)]
    best = max(starts, key=problem.similarity)
    return Matching(best, _distance(fixed, moving), _distance(fixed, problem.permute(best)), found)


def hidden_units(model: keras.Model, input_shape: Shape | None = None) -> HiddenUnits:
    """Finds the axes of a network's variables that run over hidden units.

    The layers must form a chain, in which every layer takes nothing but the output of the layer before. Between the
    first kernel and the last it may contain Dense, Conv and DepthwiseConv (multiplier 1) layers, batch and layer
    normalization, and layers that treat all channels alike: pooling, resizing, Flatten, activations, dropout, padding.
    Channels are last; nested models are fine. Inputs and outputs of the network do not count as hidden units.

    Args:
      model: a built model.
      input_shape: of one example without the batch dimension; needed for subclassed models.

    Returns:
      The units, and the axes of variables over them.

    Raises:
      ValueError: if the layers do not form a chain; names the first that does not fit.
    """
    calls = _calls_in_order(model, input_shape)
    kernels = [layer.kernel for layer, _ in calls if isinstance(layer, DENSE_OR_CONVOLUTION)]
    units: dict[str, int] = {}
    axes: dict[int, Axes] = {}
    name: str | None = None
    for layer, rank in calls:
        is_kernel_layer = isinstance(layer, DENSE_OR_CONVOLUTION)
        if name or is_kernel_layer:
            _check_layer(layer, rank)
        inputs: Axes = ((-2, name),) if name else ()
        if is_kernel_layer:
            if layer.name in units:
                raise InputError(f"Two layers are called {layer.name!r}: give every layer a different name.")
            name = None if layer.kernel is kernels[-1] else layer.name
            if name:
                units[name] = layer.kernel.shape[-1]
        outputs: Axes = ((-1, name),) if name else ()
        axes |= {id(weight): outputs for weight in layer.weights}
        if is_kernel_layer:
            axes[id(layer.kernel)] = inputs + outputs
        elif isinstance(layer, DEPTHWISE_CONVOLUTIONS):
            axes[id(layer.kernel)] = inputs
    _check_sizes(model, units, axes)
    return HiddenUnits(units, axes)


def _check_sizes(model: keras.Model, units: Mapping[str, int], axes: Mapping[int, Axes]) -> None:
    for weight in model.weights:
        for axis, name in axes[id(weight)]:
            if weight.shape[axis] % units[name]:
                raise InputError(
                    f"{weight.path} has {weight.shape[axis]} entries along axis {axis}, which the {units[name]} units "
                    f"of layer {name!r} do not divide: a network that splits up its channels cannot be matched."
                )


def _calls_in_order(model: keras.Model, input_shape: Shape | None) -> list[tuple[keras.Layer, int]]:
    """The layers of a chain in order, each with the rank of its output."""
    found = traced_graph(model, tracing.example(model, 0, input_shape))
    try:
        calls = found.chain()
        weights = {id(weight) for call in calls for weight in call.layer.weights}
        if not all(id(weight) in weights for weight in model.weights):
            raise NoChainError("it has weights outside of the layers that it calls")
    except NoChainError as error:
        raise InputError(
            f"Model {model.name!r} cannot be matched, since {error}: only networks whose layers form a chain can be."
        ) from error
    return [(call.layer, len(found.shapes[call.outputs[0]])) for call in calls]


def _check_layer(layer: keras.Layer, rank: int) -> None:
    """Raises if the layer does not commute with permutations of the channels."""
    fits = isinstance(layer, _PERMUTABLE) and is_channels_last(layer)
    if isinstance(layer, PERMUTATION_EQUIVARIANT_NORMALIZATIONS):
        fits &= [axis % rank for axis in np.ravel(layer.axis)] == [rank - 1]
    elif isinstance(layer, DEPTHWISE_CONVOLUTIONS):
        fits &= layer.depth_multiplier == 1
    elif isinstance(layer, DENSE_OR_CONVOLUTION):
        fits &= getattr(layer, "groups", 1) == 1
    if not fits:
        raise InputError(
            f"Layer {layer.name!r} of type {type(layer).__name__} cannot be matched: it is "
            "not known to commute with permutations of its channels."
        )


def _as_arrays(variables: Sequence[keras.Variable], values: Sequence[Any]) -> list[np.ndarray]:
    arrays = [np.asarray(value, np.float64) for value in values]
    if [array.shape for array in arrays] != [tuple(v.shape) for v in variables]:
        raise InputError(
            "The two solutions must be of the model: give one array of its shape for each trainable variable."
        )
    return arrays


def _distance(one: Values, other: Values) -> float:
    return math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in zip(one, other, strict=True)))


def _permute(value: np.ndarray, axes: Axes, permutations: Mapping[str, np.ndarray]) -> np.ndarray:
    for axis, name in axes:
        permutation = permutations[name]
        # A flattened axis lists all channels of the first position, then all of the second, and so on.
        starts = np.arange(0, value.shape[axis], len(permutation))
        value = np.take(value, (starts[:, None] + permutation).ravel(), axis)
    return value


def _by_unit(value: np.ndarray, axis: int, units: int) -> np.ndarray:
    """Reshapes a value to one row per unit of an axis, [units, entries]."""
    split = np.moveaxis(value, axis, 0).reshape(-1, units, value.size // value.shape[axis])
    return split.transpose(1, 0, 2).reshape(units, -1)


class _Problem:
    """Sum of bilinear assignment problems: the similarity < fixed, P moving > over the permutations P of all layers."""

    def __init__(self, axes: Sequence[Axes], fixed: Values, moving: Values, units: Mapping[str, int]) -> None:
        self._parts = list(zip(axes, fixed, moving, strict=True))
        self._units = units

    def permute(self, permutations: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [_permute(moving, axes, permutations) for axes, _, moving in self._parts]

    def similarity(self, permutations: Mapping[str, np.ndarray]) -> float:
        pairs = zip(self._parts, self.permute(permutations), strict=True)
        return sum(float(np.vdot(fixed, moved)) for (_, fixed, _), moved in pairs)

    def descend(self, random: np.random.Generator, *, shuffled: bool) -> dict[str, np.ndarray]:
        """Improves the layers in random order until a whole sweep changes nothing."""
        start = random.permutation if shuffled else np.arange
        permutations = {name: start(units) for name, units in self._units.items()}
        improved = True
        while improved:
            improved = False
            for name in random.permutation(list(permutations)):
                gains = self._gains(name, permutations)
                rows, columns = linear_sum_assignment(gains, maximize=True)
                now, best = gains[rows, permutations[name]].sum(), gains[rows, columns].sum()
                if best - now > _TOLERANCE * np.abs(gains).max():
                    permutations[name], improved = columns, True
        return permutations

    def _gains(self, name: str, permutations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Gain in similarity from mapping unit j of a layer to unit i, [units, units]."""
        units = self._units[name]
        gains = np.zeros((units, units))
        for axes, fixed, moving in self._parts:
            for axis, owner in axes:
                if owner == name:
                    others = tuple(pair for pair in axes if pair[1] != name)
                    moved = _permute(moving, others, permutations)
                    gains += _by_unit(fixed, axis, units) @ _by_unit(moved, axis, units).T
        return gains
