"""Which layers a functional or sequential model calls on which tensors, nested models opened."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from sparse_lib._utils.errors import InputError

Shape = tuple[int | None, ...]


class Call(NamedTuple):
    """One call of one layer or operation.

    Attributes:
      layer: A layer or another Keras operation.
      inputs: Numbers of its input tensors.
      outputs: Numbers of its output tensors.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Graph(NamedTuple):
    """A model as calls on numbered tensors.

    Attributes:
      calls: In an order in which every tensor is made before it is used.
      shapes: Of each tensor, the batch included.
      inputs: Numbers of the tensors that come from outside, those of nested models among them.
      outputs: Numbers of the tensors that are read from outside, what nested models are called on among them.
    """

    calls: list[Call]
    shapes: list[Shape]
    inputs: list[int]
    outputs: list[int]

    def times_called(self, layer: Any) -> int:
        """Number of calls of a layer (count)."""
        return sum(call.layer is layer for call in self.calls)


def graph(model: keras.Model) -> Graph:
    """Reads the graph of a model.

    A nested model keeps the shape of its inputs, so what it is called on counts as an output and its inputs as inputs.

    Args:
      model: Functional or sequential, built.

    Returns:
      Its calls; a layer that is called twice has two.

    Raises:
      ValueError: If the model, or one that it calls, has no graph.
    """
    found = Graph([], [], [], [])
    found.outputs.extend(_trace(model, found))
    return found


def rebuild(model: keras.Model, replace: Callable[[Any], Any]) -> keras.Model:
    """The same graph with other layers.

    Args:
      model: Functional or sequential, built.
      replace: Gives the layer or operation that takes the place of one; it is asked once for each.

    Returns:
      A new model, not compiled, of the same name; nested models are made anew.
    """
    made: dict[int, Any] = {}

    def once(operation: Any) -> Any:
        if id(operation) not in made:
            made[id(operation)] = rebuilt(operation) if is_graph(operation) else replace(operation)
        return made[id(operation)]

    def rebuilt(part: keras.Model) -> keras.Model:
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name), _functional(part).input
        )
        if isinstance(part, keras.Sequential):
            return keras.Sequential([inputs, *map(once, part.layers)], name=part.name)
        return keras.Model(inputs, _functional(part)._run_through_graph(inputs, operation_fn=once), name=part.name)

    return rebuilt(model)


def is_graph(operation: Any) -> bool:
    """Whether an operation is a model whose graph can be read."""
    return isinstance(operation, keras.Sequential) or hasattr(operation, "_nodes_by_depth")


def _functional(model: keras.Model) -> Any:
    inner = model._functional if isinstance(model, keras.Sequential) else model
    if not hasattr(inner, "_nodes_by_depth"):
        raise InputError(
            f"Model {model.name!r} has no graph of layers to read: make it functional or sequential, with a "
            "keras.Input, instead of subclassed or unbuilt."
        )
    return inner


def _trace(model: keras.Model, found: Graph) -> list[int]:
    """Adds the calls of a model, and returns the numbers of its outputs."""
    inner = _functional(model)
    numbers: dict[int, int] = {}

    def number(tensor: Any) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(found.shapes)
            found.shapes.append(tuple(tensor.shape))
        return numbers[id(tensor)]

    found.inputs.extend(map(number, inner.inputs))
    for node in _nodes(inner):
        inputs = tuple(map(number, node.input_tensors))
        if is_graph(node.operation):
            found.outputs.extend(inputs)
            made = _trace(node.operation, found)
            numbers.update({id(tensor): n for tensor, n in zip(node.outputs, made, strict=True)})
        else:
            found.calls.append(Call(node.operation, inputs, tuple(map(number, node.outputs))))
    return list(map(number, inner.outputs))


def _nodes(inner: Any) -> Iterator[Any]:
    for depth in sorted(inner._nodes_by_depth, reverse=True):
        yield from (node for node in inner._nodes_by_depth[depth] if not node.is_input)
