"""ReDo: dormant units start again, under masks that stay."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import initializers
from sparse_lib._keras import layer_types, tracing
from sparse_lib._keras.graph import traced_graph
from sparse_lib._utils.errors import InputError
from sparse_lib.dead_neurons import UnitProbe, is_dormant
from sparse_lib.landscape.matching import hidden_units
from sparse_lib.optimizer import SparseOptimizer


def recycle_dormant(
    model: keras.Model, optimizer: SparseOptimizer, x: Any, *, tau: float = 0.025, seed: int = 0
) -> dict[str, int]:
    """Recycles the dormant units of a network (ReDo; Sokar et al. 2023, algorithm 1).

    a unit with s_i <= tau, see `dead_neurons.dormant_fraction`: new incoming weights, no bias, outgoing weights 0

    The output of the network changes by no more than what the dormant units contributed. Masks stay: of the incoming
    weights the active ones are drawn anew, of the outgoing ones the active ones become 0 and train on. New weights have
    the variance 2 / active fan-in of the sparsity-aware initialisation (`initialize`), where the paper draws from the
    dense one. A normalization behind the unit starts anew as well, with scale 1 and offset 0, and so do the optimizer's
    slots of all these weights.

    Args:
      model: a built network whose layers form a chain, as for `landscape.match`, with rectifiers that are layers or
        given as `activation=`.
      optimizer: of the model, built; it holds the masks.
      x: examples to measure the activity on, 256 in the authors' code.
      tau: threshold of the score; 0.025 and 0.1 in the paper, section 5, 0 recycles units that are inactive on all
        examples.
      seed: of the new weights; give another one every time.

    Returns:
      The number of recycled units of each hidden layer (count).

    Raises:
      ValueError: if the layers do not form a chain, the optimizer is not built, or tau is negative.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> from sparse_lib.recycling import recycle_dormant
      >>> hidden = keras.layers.Dense(8, "relu", name="hidden")
      >>> model = keras.Sequential([keras.Input((20,)), hidden, keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.5, "uniform")
      >>> optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks)
      >>> optimizer.build(model.trainable_variables)
      >>> _ = hidden.bias.assign([-99.0, *[99.0] * 7])  # the first unit is never active
      >>> recycle_dormant(model, optimizer, np.eye(20))
      {'hidden': 1}
      >>> hidden.bias.numpy()[:2].tolist()
      [0.0, 99.0]
    """
    dormant = find_dormant(model, x, tau)
    if not optimizer.built:
        raise InputError("Call optimizer.build(model.trainable_variables) before dormant units are recycled.")
    found = hidden_units(model)
    owners = tracing.variable_owners(model)
    variables, changed = model.trainable_variables, []
    for index, (variable, mask) in enumerate(zip(variables, optimizer.masks.aligned(variables), strict=True)):
        value, marks = variable.numpy(), np.zeros(variable.shape, bool)
        is_depthwise = isinstance(owners[id(variable)], layer_types.DEPTHWISE_CONVOLUTIONS)
        # Outgoing weights last: one between two dormant units becomes 0.
        for axis, name in () if is_depthwise else sorted(found.axes[id(variable)], reverse=True):
            own = _spread(dormant.get(name), variable.shape, axis)
            value = np.where(own, _draw(variable, mask, (seed, index)) if axis == -1 else 0, value)
            marks |= own
        variable.assign(value)
        changed.append(marks)
    optimizer.reset_slots(changed)
    return {name: int(units.sum()) for name, units in dormant.items()}


def find_dormant(model: keras.Model, x: Any, tau: float) -> dict[str, np.ndarray]:
    """Finds the dormant units of a chain of layers.

    Args:
      model: a built network.
      x: examples.
      tau: threshold of the score.

    Returns:
      Booleans [units] for each hidden layer with a kernel whose units pass a rectifier, by its name.

    Raises:
      ValueError: if the layers do not form a chain, or tau is negative.
    """
    units = hidden_units(model).units
    activity = UnitProbe(model).mean_absolute(tf.convert_to_tensor(x))
    dormant: dict[str, np.ndarray] = {}
    name = ""
    for call in traced_graph(model, tracing.example(model, 0)).chain():
        if isinstance(call.layer, layer_types.DENSE_OR_CONVOLUTION):
            name = call.layer.name
        if name in units and call.layer.name in activity:
            dormant[name] = is_dormant(activity[call.layer.name], tau).numpy()
    return dormant


def _spread(units: np.ndarray | None, shape: Any, axis: int) -> np.ndarray:
    """Marks the entries of a variable that belong to marked units along an axis; flattened positions repeat them."""
    marks = np.zeros(shape[axis], bool) if units is None else np.tile(units, shape[axis] // len(units))
    return np.broadcast_to(np.reshape(marks, [-1, *[1] * (-1 - axis)]), shape)


def _draw(variable: keras.Variable, mask: tf.Tensor | None, seed: tuple[int, int]) -> np.ndarray | float:
    """Values that a variable of a new unit starts with."""
    if len(variable.shape) == 1:
        return 1.0 if variable.name == "gamma" else 0.0
    active = tf.ones(variable.shape, tf.bool) if mask is None else mask
    return initializers.unit_scaled(active, method="fanin_normal", scale=2.0, seed=seed).numpy()
