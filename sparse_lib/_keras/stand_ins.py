"""Other tensors, regularizers and calls in the place of those of Keras objects, for as long as a context lasts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


@contextmanager
def replace_attributes(replacements: Sequence[tuple[Any, Mapping[str, Any]]]) -> Iterator[None]:
    """Sets attributes of objects inside the context, past Keras' `__setattr__`, which tracks them.

    Args:
      replacements: pairs of an object and its attributes by name.

    Yields:
      Nothing.
    """
    before = [
        (target, {name: target.__dict__[name] for name in values if name in target.__dict__}, values)
        for target, values in replacements
    ]
    try:
        for target, _, values in before:
            target.__dict__.update(values)
        yield
    finally:
        for target, old, values in reversed(before):
            for name in values:
                target.__dict__.pop(name, None)
            target.__dict__.update(old)


def replace_variables(variables: Sequence[keras.Variable], replacements: Sequence[tf.Variable]) -> Any:
    """Lets Keras variables stand for other TensorFlow variables, of any shape, inside a context.

    An optimizer that steps inside the context reads and writes the replacements, and finds its slots by the identity of
    the replaced variables.

    Args:
      variables: of a model or an optimizer.
      replacements: one variable of the same dtype for each.

    Returns:
      A context manager.
    """
    changes: list[tuple[Any, dict[str, Any]]] = []
    for variable, replacement in zip(variables, replacements, strict=True):
        changes.append((variable, {"_value": replacement, "_shape": tuple(replacement.shape)}))
        changes.append((replacement, {"_unique_id": variable.value._unique_id}))
    return replace_attributes(changes)


def replace_regularizers(regularizers: Sequence[tuple[keras.Variable, Callable[[Any], tf.Tensor]]]) -> Any:
    """Sets the regularizers of variables inside a context.

    Args:
      regularizers: pairs of a variable and a function of its value.

    Returns:
      A context manager.
    """
    return replace_attributes([(variable, {"_regularizer": function}) for variable, function in regularizers])


def set_attribute(target: Any, name: str, value: Any) -> None:
    """Sets an attribute of a layer or model for good, past Keras' `__setattr__`, which may lock it.

    Args:
      target: the layer or model.
      name: of the attribute.
      value: of the attribute; Keras does not track, save or clone it.
    """
    target.__dict__[name] = value


def remove_attribute(target: Any, name: str) -> None:
    """Removes an attribute that `set_attribute` set, if it did.

    Args:
      target: the layer or model.
      name: of the attribute.
    """
    target.__dict__.pop(name, None)
