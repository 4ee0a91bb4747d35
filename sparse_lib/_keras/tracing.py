"""Which layers a model calls, and on which shapes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

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


def all_layers(model: keras.Model) -> list[keras.Layer]:
    """Every layer inside a model, nested ones included, each once.

    Args:
      model: any Keras model.

    Returns:
      The layers, the model itself excluded.
    """
    found = model._flatten_layers(include_self=False)
    return list({id(layer): layer for layer in found}.values())


def example_of_zeros(model: keras.Model, input_shape: Shape | None = None) -> tf.Tensor:
    """One example of zeros that a model accepts.

    Args:
      model: a built model.
      input_shape: shape of one example without the batch dimension; needed for subclassed models
        and inputs of unknown size.

    Returns:
      A batch of one, in the structure of the model's inputs.

    Raises:
      ValueError: if the model is not built or its input shape not known.
    """
    if not model.built:
        raise InputError(f"Model {model.name!r} is not built: call it on a batch once.")
    if input_shape is not None:
        return tf.zeros((1, *input_shape), model.compute_dtype)
    specs = model.inputs[0] if isinstance(model, keras.Sequential) else getattr(model, "input", None)
    shapes = [tuple(spec.shape[1:]) for spec in keras.tree.flatten(specs) if spec is not None]
    if not shapes or any(None in shape for shape in shapes):
        raise InputError(
            f"The input shape of model {model.name!r} is not known: pass input_shape, without the batch dimension."
        )
    return keras.tree.map_structure(lambda t: tf.zeros((1, *t.shape[1:]), t.dtype), specs)


@contextmanager
def watch(layers: Sequence[keras.Layer]) -> Iterator[list[LayerCall]]:
    """Notes the calls of some layers while the context lasts.

    Sees every call, whoever makes it: a graph, a subclassed model, an attention layer. Inside
    `tf.function` the notes are taken while it is traced. One thread at a time may watch a layer.

    Args:
      layers: layers that take one tensor and return one, each at most once.

    Yields:
      A list that grows with every call, in the order in which the calls end.
    """
    calls: list[LayerCall] = []

    def noting(layer: keras.Layer) -> Callable[..., tf.Tensor]:
        original = layer.call

        def call(inputs: tf.Tensor, *args: object, **kwargs: object) -> tf.Tensor:
            outputs = original(inputs, *args, **kwargs)
            calls.append(LayerCall(layer, inputs, outputs))
            return outputs

        return call

    # Past Keras' __setattr__, which tracks attributes and may lock a built layer.
    before = [layer.__dict__.get("call") for layer in layers]
    for layer in layers:
        layer.__dict__["call"] = noting(layer)
    try:
        yield calls
    finally:
        for layer, own_call in zip(layers, before, strict=True):
            if own_call is None:
                del layer.__dict__["call"]
            else:
                layer.__dict__["call"] = own_call
