"""The layers that a model contains, and the layers that it calls, with their inputs and outputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sparse_lib._utils.errors import InputError

Shape = tuple[int, ...]


class LayerCall(NamedTuple):
    """One call of one layer.

    Attributes:
      layer: the layer.
      inputs: its first input.
      outputs: its output.
    """

    layer: keras.Layer
    inputs: tf.Tensor
    outputs: tf.Tensor


def all_layers(model: keras.Layer) -> list[keras.Layer]:
    """Every layer inside a model, nested ones included, each once.

    Args:
      model: any Keras model or layer.

    Returns:
      The layers, the model itself excluded.
    """
    found = model._flatten_layers(include_self=False)
    return list({id(layer): layer for layer in found}.values())


def variable_owners(model: keras.Model) -> dict[int, keras.Layer]:
    """The innermost layer of every trainable variable.

    Args:
      model: a built model.

    Returns:
      Layers by the `id` of the variable.
    """
    owners: dict[int, keras.Layer] = {}
    for layer in (model, *all_layers(model)):
        inner = {id(v) for child in all_layers(layer) for v in child.trainable_variables}
        for variable in layer.trainable_variables:
            if id(variable) not in inner:
                owners.setdefault(id(variable), layer)
    return owners


def parameters(model: keras.Layer) -> list[tuple[keras.Layer, keras.Variable]]:
    """Every parameter of a model with the layer that owns it, frozen ones included.

    Args:
      model: a built model.

    Returns:
      Pairs of the innermost layer and a variable that was made to train, or is a matrix; no averages, no seeds.
    """
    found: dict[int, tuple[keras.Layer, keras.Variable]] = {}
    # Inner layers first: a model also lists variables of layers that Keras tracks in other ways.
    for layer in (*reversed(all_layers(model)), model):
        fixed = [v for v in layer._non_trainable_variables if len(v.shape) > 1]
        for variable in (*layer._trainable_variables, *fixed):
            found.setdefault(id(variable), (layer, variable))
    order = {id(v): i for i, v in enumerate(model.weights)}
    return sorted((pair for key, pair in found.items() if key in order), key=lambda pair: order[id(pair[1])])


def input_specs(model: keras.Model) -> Any:
    """Shapes and dtypes of the inputs, in the structure that the model takes.

    Args:
      model: a built model.

    Returns:
      Symbolic tensors with the batch dimension, or None for a subclassed model, which does not record them.
    """
    return model.inputs[0] if isinstance(model, keras.Sequential) else getattr(model, "input", None)


def example(model: keras.Model, value: int, input_shape: Any = None) -> Any:
    """One example, every entry of which has the same value.

    Args:
      model: a built model.
      value: of every entry.
      input_shape: shape of one example without the batch dimension, or shapes in the structure of the inputs; needed
        for subclassed models and inputs of unknown size.

    Returns:
      A batch of one, in the structure of the model's inputs.

    Raises:
      ValueError: if the model is not built or its input shape is unknown.
    """
    if not model.built:
        raise InputError(f"Model {model.name!r} is not built: call it on a batch once.")
    if input_shape is not None:
        return _example_of_shape(model, value, input_shape)
    if not has_fixed_inputs(model):
        raise InputError(
            f"The input shape of model {model.name!r} is not known: pass input_shape, without the batch dimension; for "
            "several inputs a list or dictionary of shapes."
        )
    return keras.tree.map_structure(lambda t: _fill(t.shape[1:], value, t.dtype), input_specs(model))


def _example_of_shape(model: keras.Model, value: int, input_shape: Any) -> Any:
    """One example of given shapes, with the dtypes of the inputs where the model records them."""
    specs = input_specs(model)

    def fill(spec: Any, shape: Any) -> Any:
        """Raises a TypeError where shape and structure are not those of the inputs."""
        if isinstance(shape, Mapping):
            if spec is not None and (not isinstance(spec, dict) or spec.keys() != shape.keys()):
                raise TypeError
            return {key: fill(spec and spec[key], part) for key, part in shape.items()}
        if not all(isinstance(size, Integral) for size in shape):
            parts = [None] * len(shape) if spec is None else spec
            if not isinstance(parts, list | tuple) or len(parts) != len(shape):
                raise TypeError
            return [fill(part, own) for part, own in zip(parts, shape, strict=True)]
        if spec is None:
            return _fill(shape, value, model.compute_dtype)
        if not keras.backend.is_keras_tensor(spec) or len(spec.shape) != len(shape) + 1:
            raise TypeError
        if any(size not in (None, own) for size, own in zip(spec.shape[1:], shape, strict=True)):
            raise TypeError
        return _fill(shape, value, spec.dtype)

    try:
        return fill(specs, input_shape)
    except TypeError as error:
        there = keras.tree.map_structure(lambda t: tuple(t.shape[1:]), specs)
        raise InputError(
            f"input_shape is {input_shape}, and model {model.name!r} takes {there}: give the same, with sizes for None."
        ) from error


def has_fixed_inputs(model: keras.Model) -> bool:
    """Whether a built model determines the shape of one example."""
    shapes = [spec.shape[1:] for spec in keras.tree.flatten(input_specs(model)) if spec is not None]
    return bool(shapes) and all(None not in shape for shape in shapes)


def _fill(shape: Sequence[int], value: int, dtype: str) -> tf.Tensor:
    return tf.fill((1, *shape), tf.constant(value, dtype))


@contextmanager
def watch(layers: Sequence[keras.Layer]) -> Iterator[list[LayerCall]]:
    """Records the calls of some layers while the context lasts.

    Sees every call, whoever makes it: a graph, a subclassed model, an attention layer. Inside `tf.function` calls are
    recorded while it is traced. One thread at a time may watch a layer.

    Args:
      layers: layers that take one tensor and return one, each at most once.

    Yields:
      A list that grows with every call, in the order in which the calls end.
    """
    calls: list[LayerCall] = []

    def record_calls(layer: keras.Layer, name: str) -> Callable[..., tf.Tensor]:
        original = getattr(layer, name)

        def call(inputs: tf.Tensor, *args: object, **kwargs: object) -> tf.Tensor:
            outputs = original(inputs, *args, **kwargs)
            calls.append(LayerCall(layer, inputs, outputs))
            return outputs

        return call

    # Past Keras' __setattr__, which tracks attributes and may lock a built layer.
    # Keras calls quantized layers by another method.
    names = ["call" if layer.quantization_mode is None else "quantized_call" for layer in layers]
    before = [layer.__dict__.get(name) for layer, name in zip(layers, names, strict=True)]
    for layer, name in zip(layers, names, strict=True):
        layer.__dict__[name] = record_calls(layer, name)
    try:
        yield calls
    finally:
        for layer, name, own_call in zip(layers, names, before, strict=True):
            if own_call is None:
                del layer.__dict__[name]
            else:
                layer.__dict__[name] = own_call


@contextmanager
def watch_activations(layers: Sequence[keras.Layer]) -> Iterator[dict[int, list[tf.Tensor]]]:
    """Records what the activations of some layers are called on while the context lasts.

    Args:
      layers: layers with a callable `activation`, each at most once; one thread at a time may watch a layer.

    Yields:
      The inputs of each activation in the order of the calls, by the `id` of the layer.
    """
    found: dict[int, list[tf.Tensor]] = {id(layer): [] for layer in layers}

    def record(inputs: list[tf.Tensor], activation: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., tf.Tensor]:
        def activate(x: tf.Tensor) -> tf.Tensor:
            inputs.append(x)
            return activation(x)

        return activate

    # Past Keras' __setattr__, which tracks attributes.
    before = [layer.activation for layer in layers]
    for layer, activation in zip(layers, before, strict=True):
        layer.__dict__["activation"] = record(found[id(layer)], activation)
    try:
        yield found
    finally:
        for layer, activation in zip(layers, before, strict=True):
            layer.__dict__["activation"] = activation
