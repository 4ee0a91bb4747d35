"""Which kernels of a Keras model are sparse: rules that choose them, their names, and their axes."""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from sparse_lib._keras.layer_types import DEPTHWISE_CONVOLUTIONS, input_axes, is_matrix, output_axes
from sparse_lib._keras.tracing import variable_owners
from sparse_lib._utils.did_you_mean import closest_names
from sparse_lib._utils.errors import InputError
from sparse_lib.structures import Structure

_DENSE_LAYERS = (*DEPTHWISE_CONVOLUTIONS, keras.layers.Embedding)
KernelFilter = Callable[[keras.Layer, keras.Variable], bool]
Rule = KernelFilter | str | re.Pattern[str]
Rules = Rule | Iterable[Rule]


def is_weight_matrix(layer: keras.Layer, variable: keras.Variable) -> bool:
    """Whether a variable is sparse by default: all kernels but those of embedding and depthwise layers.

    Args:
      layer: the layer that owns the variable.
      variable: one of its trainable variables.

    Returns:
      False for biases, norms, embeddings and depthwise kernels.
    """
    is_kernel = variable.name.endswith("kernel") and variable.name != "depthwise_kernel"
    return is_kernel and len(variable.shape) >= 2 and not isinstance(layer, _DENSE_LAYERS)


def _match_rules(model: keras.Model, owners: Mapping[int, keras.Layer], rules: Rules) -> set[int]:
    """Ids of the variables that match any of the rules."""
    chosen: set[int] = set()
    for rule in (rules,) if isinstance(rules, str | re.Pattern) or callable(rules) else rules:
        found = {id(v) for v in model.trainable_variables if id(v) in owners and _matches(rule, owners[id(v)], v)}
        if not found and not callable(rule):
            there = [v.path for v in model.trainable_variables if is_matrix(v)]
            raise InputError(f"{rule!r} fits no kernel of {model.name}; there are {closest_names(str(rule), there)}.")
        chosen |= found
    return chosen


def _matches(rule: Any, layer: keras.Layer, variable: keras.Variable) -> bool:
    if callable(rule):
        return bool(rule(layer, variable))
    names = (layer.name, f"{layer.name}/{variable.name}", variable.path)
    match = rule.fullmatch if isinstance(rule, re.Pattern) else re.compile(fnmatch.translate(rule)).match
    return is_matrix(variable) and any(match(name) for name in names)


def check_model(model: Any) -> None:
    """Checks that an argument is a Keras model.

    Args:
      model: of a user.

    Raises:
      InputError: if it is something else.
    """
    if not isinstance(model, keras.Layer):
        raise InputError(f"The first argument is a Keras model, got {model!r}.")


def sparse_kernels(
    model: keras.Model, include: Rules = is_weight_matrix, exclude: Rules = ()
) -> dict[str, keras.Variable]:
    """Kernels of a built model that are to be sparse, in the order of `model.trainable_variables`.

    Args:
      model: a built Keras model: functional, sequential or subclassed, nested or with shared layers.
      include: one or more rules; a variable is included if any of them matches. A rule is a function (layer,
        trainable variable) -> bool, a glob pattern such as `"conv*"`, `"*/query/kernel"` or `"embedding"`, or a
        compiled regular expression. Patterns match a layer's name, a kernel's name (`conv/kernel`) or its full path,
        among all trainable variables of rank 2 or higher except biases.
      exclude: rules for variables to leave dense even if they are included.

    Returns:
      Kernels by name, such as `conv1/kernel`; ambiguous names are full paths, numbered if necessary.

    Raises:
      ValueError: if the model is not built, or a pattern matches nothing.

    Examples:
      >>> import keras
      >>> import sparse_lib
      >>> layers = [keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="logits")]
      >>> model = keras.Sequential([keras.Input((8,)), *layers])
      >>> list(sparse_lib.sparse_kernels(model))
      ['hidden/kernel', 'logits/kernel']
      >>> list(sparse_lib.sparse_kernels(model, exclude="logits"))
      ['hidden/kernel']
    """
    check_model(model)
    if not model.built or not model.weights:
        raise InputError(f"Model {model.name} has no weights yet: call it once on a batch, or build it, first.")
    owners = variable_owners(model)
    chosen = _match_rules(model, owners, include) - _match_rules(model, owners, exclude)
    ordered = [v for v in model.trainable_variables if id(v) in chosen]
    short = [f"{owners[id(v)].name}/{v.name}" for v in ordered]
    names = [name if short.count(name) == 1 else v.path for name, v in zip(short, ordered, strict=True)]
    # Layers of one name in one place have one path, too.
    earlier = [names[:i].count(name) for i, name in enumerate(names)]
    return {f"{n}_{e}" if e else n: v for n, e, v in zip(names, earlier, ordered, strict=True)}


def kernel_structures(model: keras.Model, kernels: Iterable[keras.Variable], structure: Structure) -> list[Structure]:
    """Adapts a structure to each kernel, by setting the kernel's output axes.

    Args:
      model: a built model.
      kernels: trainable variables of the model.
      structure: the structure of all kernels.

    Returns:
      One structure per kernel.
    """
    return [dataclasses.replace(structure, outputs=outputs) for _, outputs in kernel_axes(model, kernels)]


def kernel_axes(model: keras.Model, kernels: Iterable[keras.Variable]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Input and output axes of each kernel.

    Args:
      model: a built model.
      kernels: trainable variables of the model.

    Returns:
      One pair (input axes, output axes) per kernel, counted from 0.
    """
    owners = variable_owners(model)
    return [(input_axes(owners[id(k)], k), output_axes(owners[id(k)], k)) for k in kernels]
