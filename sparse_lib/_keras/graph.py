"""The graph of a model: which layers it calls on which tensors, nested models opened."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras.src.models.functional import Functional

from sparse_lib._keras import tracing
from sparse_lib._utils.errors import InputError

Shape = tuple[int | None, ...]
# A model whose class overrides `call` does not follow its graph.
_GRAPH_CALLS = (keras.Sequential.call, Functional.call)
# Arguments that say which positions see each other, and nothing about channels.
_OF_POSITIONS = ("use_causal_mask",)


class NoChainError(InputError):
    """Explains why the layers of a model do not form a chain."""


class Call(NamedTuple):
    """One call of one layer or operation.

    Attributes:
      layer: a layer or another Keras operation.
      inputs: numbers of its input tensors.
      outputs: numbers of its output tensors.
      is_plain: whether it is called on its input tensors alone, without arguments such as `training=True`.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    is_plain: bool = True


class Graph(NamedTuple):
    """A model as calls on numbered tensors.

    Attributes:
      calls: in topological order.
      shapes: of each tensor, the batch included.
      inputs: numbers of the model's inputs.
      outputs: numbers of the model's outputs.
      nested: for each call of a nested model, the tensors that it is called on and the numbers of its own inputs.
    """

    calls: list[Call]
    shapes: list[Shape]
    inputs: list[int]
    outputs: list[int]
    nested: list[tuple[tuple[int, ...], tuple[int, ...]]]

    def times_called(self, layer: Any) -> int:
        """Number of calls of a layer (count)."""
        return sum(call.layer is layer for call in self.calls)

    def boundary(self) -> set[int]:
        """Numbers of the inputs and outputs, and of the tensors on both sides of the inputs of nested models."""
        return {*self.inputs, *self.outputs, *(n for sides in self.nested for side in sides for n in side)}

    def chain(self) -> list[Call]:
        """The calls of a model in which every layer takes nothing but the output of the layer before it.

        Returns:
          All calls, from the input to the output.

        Raises:
          NoChainError: if the layers form no chain; names the first that does not fit.
        """
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise NoChainError("it has several inputs or outputs")
        outside = {inner: outer for sides in self.nested for outer, inner in zip(*sides, strict=False)}

        def outermost(number: int) -> int:
            return outermost(outside[number]) if number in outside else number

        (last,) = self.inputs
        for call in self.calls:
            if not isinstance(call.layer, keras.Layer) or [*map(outermost, call.inputs)] != [last]:
                raise NoChainError(
                    f"layer {call.layer.name!r} takes something else than the output of the layer before it"
                )
            if not call.is_plain or len(call.outputs) != 1:
                raise NoChainError(f"layer {call.layer.name!r} is called with arguments beside its input")
            if self.times_called(call.layer) > 1:
                raise NoChainError(f"layer {call.layer.name!r} is called more than once")
            (last,) = call.outputs
        if outermost(self.outputs[0]) != last:
            raise NoChainError("its output is not that of its last layer")
        return self.calls


def graph(model: keras.Model) -> Graph:
    """Reads the graph of a model as Keras stores it.

    Args:
      model: functional or sequential, built.

    Returns:
      Its calls; a layer that is called twice has two.

    Raises:
      ValueError: if the model has no graph.
    """
    found = Graph([], [], [], [], [])
    inputs, outputs = _trace(model, found, is_plain=True)
    found.inputs.extend(inputs)
    found.outputs.extend(outputs)
    return found


def traced_graph(model: keras.Model, inputs: Any) -> Graph:
    """Reads the graph of any model off one call at inference.

    Args:
      model: built; it may be subclassed.
      inputs: one batch.

    Returns:
      Calls of the innermost layers, each with its first input; operations that are no layers are not seen.
    """
    layers = tracing.all_layers(model)
    # An activation that is a layer belongs to the layer that it was given to.
    parts = {id(layer.activation) for layer in layers if isinstance(getattr(layer, "activation", None), keras.Layer)}
    parts |= {id(layer) for layer in layers if isinstance(layer, keras.layers.InputLayer)}

    def is_innermost(layer: keras.Layer) -> bool:
        return all(id(part) in parts for part in tracing.all_layers(layer))

    with tracing.watch([layer for layer in layers if id(layer) not in parts and is_innermost(layer)]) as calls:
        outputs = model(inputs, training=False)
    number = _Numbers()

    def numbers(tensors: Any) -> list[int]:
        return [number(tensor) for tensor in keras.tree.flatten(tensors)]

    found = Graph([], number.shapes, numbers(inputs), numbers(outputs), [])
    found.calls.extend(Call(layer, tuple(numbers(x)), tuple(numbers(y))) for layer, x, y in calls)
    return found


def rebuild(model: keras.Model, replace: Callable[[Any], Any]) -> keras.Model:
    """Builds the same graph with other layers.

    Args:
      model: functional or sequential, built.
      replace: from a layer or operation to its replacement; it is called once for each.

    Returns:
      A new model, not compiled, of the same name; nested models are new, too.
    """
    made: dict[int, Any] = {}

    def replace_once(operation: Any) -> Any:
        if id(operation) not in made:
            made[id(operation)] = rebuild_part(operation) if is_graph(operation) else replace(operation)
        return made[id(operation)]

    def rebuild_part(part: keras.Model) -> keras.Model:
        inner = _functional(part)
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name), inner.input
        )
        if isinstance(part, keras.Sequential):
            return keras.Sequential([inputs, *map(replace_once, part.layers)], name=part.name)
        return keras.Model(inputs, inner._run_through_graph(inputs, operation_fn=replace_once), name=part.name)

    return rebuild_part(model)


def is_graph(operation: Any) -> bool:
    """Whether an operation is a model with a graph that its `call` follows."""
    return isinstance(operation, keras.Model) and type(operation).call in _GRAPH_CALLS


class _Numbers:
    """Numbers tensors in the order in which they are first seen."""

    def __init__(self, shapes: list[Shape] | None = None) -> None:
        self.shapes: list[Shape] = [] if shapes is None else shapes
        # The tensors are kept, since only living objects have unique ids.
        self._seen: dict[int, tuple[Any, int]] = {}

    def __call__(self, tensor: Any) -> int:
        if id(tensor) not in self._seen:
            self.assign(tensor, len(self.shapes))
            self.shapes.append(tuple(tensor.shape))
        return self._seen[id(tensor)][1]

    def assign(self, tensor: Any, number: int) -> None:
        self._seen[id(tensor)] = (tensor, number)


def _functional(model: keras.Model) -> Any:
    inner = model._functional if isinstance(model, keras.Sequential) else model
    if not is_graph(model) or not hasattr(inner, "_nodes_by_depth"):
        raise InputError(
            f"Model {model.name!r} has no graph of layers to read: make it functional or sequential, with a "
            "keras.Input, instead of subclassed or unbuilt."
        )
    return inner


def _trace(model: keras.Model, found: Graph, *, is_plain: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Adds the calls of a model, and returns the numbers of its inputs and outputs."""
    inner = _functional(model)
    number = _Numbers(found.shapes)
    own_inputs = tuple(map(number, inner.inputs))
    for node in _nodes(inner):
        inputs = tuple(map(number, node.input_tensors))
        is_plain_call = is_plain and _is_plain(node)
        if is_graph(node.operation):
            nested_inputs, outputs = _trace(node.operation, found, is_plain=is_plain_call)
            found.nested.append((inputs, nested_inputs))
            for tensor, output in zip(node.outputs, outputs, strict=True):
                number.assign(tensor, output)
        else:
            found.calls.append(Call(node.operation, inputs, tuple(map(number, node.outputs)), is_plain_call))
    return own_inputs, tuple(map(number, inner.outputs))


def _nodes(inner: Any) -> Iterator[Any]:
    for depth in sorted(inner._nodes_by_depth, reverse=True):
        yield from (node for node in inner._nodes_by_depth[depth] if not node.is_input)


def _is_plain(node: Any) -> bool:
    arguments = {name: value for name, value in node.arguments.kwargs.items() if name not in _OF_POSITIONS}
    is_set = any(value is not None and value is not False for value in arguments.values())
    return not is_set and len(keras.tree.flatten(node.arguments.args)) == len(node.input_tensors)
