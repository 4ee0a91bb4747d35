"""Choosing the sparse kernels of a Keras model and creating their masks: `sparsify` and what it is made of."""

import dataclasses
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from sparse_lib import distributions, mask_files
from sparse_lib._keras.layer_types import DEPTHWISE_CONVOLUTIONS, input_axes, is_matrix, output_axes
from sparse_lib._keras.tracing import variable_owners
from sparse_lib._utils.did_you_mean import closest_names
from sparse_lib._utils.errors import InputError
from sparse_lib.execution import Execution, Mode
from sparse_lib.masks import Masks, random_masks
from sparse_lib.optimizer import execute_model_steps
from sparse_lib.structures import UNSTRUCTURED, Structure, parse

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


def _check_model(model: Any) -> None:
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
    _check_model(model)
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


def sparsify(
    model: keras.Model,
    sparsity: float | Mapping[str, float] | None = None,
    distribution: str = "erk",
    *,
    structure: Structure = UNSTRUCTURED,
    custom: Mapping[str, float] | None = None,
    power_scale: float = 1.0,
    first_layer_dense: bool = False,
    include: Rules = is_weight_matrix,
    exclude: Rules = (),
    seed: int = 0,
    execution: Mode = "auto",
) -> Masks:
    """Makes a model sparse: creates random masks for its kernels and zeroes the inactive weights.

    Args:
      model: a built Keras model; it stays a plain Keras model.
      sparsity: share of zeros over all sparse kernels (fraction), in [0, 1); None means 0.9, as in the RigL paper's
        main table (section 4), or the sparsity that the structure fixes. A mapping gives sparsities by name or pattern
        of kernels or layers, where the last match wins and kernels without a match get no mask.
      distribution: `erk` (RigL paper, section 3), `er`, `uniform` or `str`; always uniform where the structure fixes
        the sparsity.
      structure: constraint on the masks, such as `NM(2, 4)`, `Block(4, 4)`, `Channel()` or `ConstantFanIn()`; each
        kernel gets the nearest number of active weights that it allows.
      custom: sparsities of single kernels (fraction), by name or pattern as above; 0 keeps a kernel dense, and
        `sparsity` is that of all others.
      power_scale: exponent of the ER and ERK densities; 1 in the RigL paper.
      first_layer_dense: keeps the first kernel dense, as in the RigL paper's tables for `uniform`.
      include: rules for the sparse kernels, see `sparse_kernels`.
      exclude: rules for kernels to leave dense.
      seed: random seed of the masks.
      execution: whether layers multiply by their active weights alone in `fit`, `evaluate`, `predict` and inside of
        `SparseOptimizer.execute`: `sparse` where there is such a product, `auto` where it pays on this machine, `dense`
        nowhere.

    Returns:
      The masks, an argument of `SparseOptimizer`.

    Raises:
      ValueError: if the model is not built, no kernel is chosen, or a sparsity is out of range.

    Examples:
      >>> import keras
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(50), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, sparsity=0.9)
      >>> masks.active()  # ERK: the smaller kernel is denser
      [393, 158]
      >>> model.layers[0].count_params()  # the model is still a plain Keras model
      5050
    """
    _check_model(model)
    if isinstance(structure, type) or not isinstance(structure, Structure):
        raise InputError(f"The structure is {structure!r}: give an instance such as NM(2, 4) or Channel().")
    if isinstance(sparsity, bool) or not isinstance(sparsity, Mapping | Real | None):
        raise InputError(f"The sparsity is {sparsity!r}: give a fraction of zeros in [0, 1), or a mapping from names.")
    kernels = _require_kernels(model, sparse_kernels(model, include, exclude))
    if isinstance(sparsity, Mapping):
        custom, sparsity = {**sparsity, **(custom or {})}, 0.0
        named = distributions.custom_by_kernel(kernels, custom)
        # An unknown name is refused below, where all names are at hand.
        if set(named) <= set(kernels):
            kernels = {name: kernel for name, kernel in kernels.items() if name in named}
    shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
    structures = kernel_structures(model, kernels.values(), structure)
    fixed = structure.fixed_sparsity
    if sparsity is None:
        sparsity = 0.9 if fixed is None else fixed
    structure.check_sparsity(sparsity)
    counts = distributions.nnz(
        shapes,
        sparsity,
        distribution=distribution if fixed is None else "uniform",
        custom=distributions.custom_by_kernel(shapes, custom),
        power_scale=power_scale,
        first_layer_dense=first_layer_dense,
    )
    values = random_masks(list(shapes.values()), [counts[name] for name in shapes], seed, structures)
    masks = Masks(list(kernels.values()), [tf.constant(v) for v in values], list(kernels), structures)
    _execute(model, masks, execution)
    return masks


def _execute(model: keras.Model, masks: Masks, mode: Mode) -> None:
    masks.execution = Execution(model, masks, mode)
    execute_model_steps(model, masks.execution)


def _require_kernels(model: keras.Model, kernels: dict[str, keras.Variable]) -> dict[str, keras.Variable]:
    if not kernels:
        raise InputError(f"No trainable kernel of {model.name} was chosen; pass include= to say which to make sparse.")
    return kernels


def transfer_masks(
    source: Masks | str | os.PathLike[str],
    model: keras.Model,
    *,
    include: Rules = is_weight_matrix,
    exclude: Rules = (),
    execution: Mode = "auto",
) -> Masks:
    """Transfers masks from another model or a file to a model of the same architecture.

    Args:
      source: masks, or a file from `Masks.save`.
      model: a built model whose sparse kernels have the same order and shapes as those of the source.
      include: rules for the sparse kernels, as when the masks were made.
      exclude: rules for kernels to leave dense.
      execution: as in `sparsify`.

    Returns:
      Masks of the model's kernels, with the same structures; inactive weights are zero.

    Raises:
      ValueError: if the kernels do not match; the message names the first that differs.

    Examples:
      >>> import keras
      >>> import sparse_lib
      >>> dense = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
      >>> pruned = keras.models.clone_model(dense)
      >>> masks = sparse_lib.sparsify(pruned, 0.75)
      >>> ticket = sparse_lib.transfer_masks(masks, dense)
      >>> bool((ticket.values()[0] == masks.values()[0]).numpy().all())
      True
    """
    if not isinstance(source, Masks | str | os.PathLike):
        raise InputError(f"The first argument is masks or a file of masks, got {source!r}.")
    if isinstance(source, Masks):
        origin = "another model"
        stored = source.stored()
    else:
        origin, stored = str(source), mask_files.read(source)
    kernels = _require_kernels(model, sparse_kernels(model, include, exclude))
    shapes = [kernel.shape for kernel in kernels.values()]
    mask_files.check_same_kernels(origin, stored.names, [v.shape for v in stored.values], list(kernels), shapes)
    structures = [
        kernel_structures(model, [kernel], parse(text))[0]
        for kernel, text in zip(kernels.values(), stored.structures, strict=True)
    ]
    masks = Masks(list(kernels.values()), stored.values, list(kernels), structures)
    _execute(model, masks, execution)
    return masks
