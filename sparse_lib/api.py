"""The three-line entrance: sparse kernels of any Keras model."""

import dataclasses
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from sparse_lib import distributions, mask_files
from sparse_lib._keras.layer_types import DEPTHWISE_CONVOLUTIONS, input_axes, is_matrix, output_axes
from sparse_lib._keras.tracing import variable_owners
from sparse_lib._utils.did_you_mean import likest
from sparse_lib._utils.errors import InputError
from sparse_lib.masks import Masks, random_masks
from sparse_lib.structures import UNSTRUCTURED, Structure, parse

_DENSE_LAYERS = (*DEPTHWISE_CONVOLUTIONS, keras.layers.Embedding)
KernelFilter = Callable[[keras.Layer, keras.Variable], bool]
Rule = KernelFilter | str | re.Pattern[str]
Rules = Rule | Iterable[Rule]


def is_weight_matrix(layer: keras.Layer, variable: keras.Variable) -> bool:
    """The default choice of sparse kernels: all but biases, norms, embeddings and depthwise kernels.

    Args:
      layer: the layer that owns the variable.
      variable: one of its trainable variables.

    Returns:
      Whether the variable is a weight matrix that is made sparse by default.
    """
    named = variable.name.endswith("kernel") and variable.name != "depthwise_kernel"
    return named and len(variable.shape) >= 2 and not isinstance(layer, _DENSE_LAYERS)


def _chosen(model: keras.Model, owners: Mapping[int, keras.Layer], rules: Rules) -> set[int]:
    """Ids of the variables that any of the rules chooses."""
    chosen: set[int] = set()
    for rule in (rules,) if isinstance(rules, str | re.Pattern) or callable(rules) else rules:
        found = {id(v) for v in model.trainable_variables if id(v) in owners and _follows(rule, owners[id(v)], v)}
        if not found and not callable(rule):
            there = [v.path for v in model.trainable_variables if is_matrix(v)]
            raise InputError(f"{rule!r} fits no kernel of {model.name}; there are {likest(str(rule), there)}.")
        chosen |= found
    return chosen


def _follows(rule: Any, layer: keras.Layer, variable: keras.Variable) -> bool:
    if callable(rule):
        return bool(rule(layer, variable))
    names = (layer.name, f"{layer.name}/{variable.name}", variable.path)
    fits = rule.fullmatch if isinstance(rule, re.Pattern) else re.compile(fnmatch.translate(rule)).match
    return is_matrix(variable) and any(fits(name) for name in names)


def sparse_kernels(
    model: keras.Model, include: Rules = is_weight_matrix, exclude: Rules = ()
) -> dict[str, keras.Variable]:
    """The kernels of a built model that masks belong to, in the order of `model.trainable_variables`.

    Args:
      model: any built Keras model: functional, sequential or subclassed, nested or with shared layers.
      include: what is sparse, a rule or several of which any may choose. A rule is a function of a layer and one of
        its trainable variables, a pattern such as `"conv*"`, `"*/query/kernel"` or `"embedding"`, or a compiled
        regular expression. Patterns are of a layer's name, a kernel's name (`conv/kernel`) or its whole path, and
        choose among all trainable variables of two or more axes but biases.
      exclude: rules for what is left dense although it is included.

    Returns:
      Name, such as `conv1/kernel`, to variable; names that would repeat are full paths, numbered if need be.

    Raises:
      ValueError: if the model is not built, or a pattern fits nothing.
    """
    if not model.built or not model.weights:
        raise InputError(f"Model {model.name} has no weights yet: call it once on a batch, or build it, first.")
    owners = variable_owners(model)
    chosen = _chosen(model, owners, include) - _chosen(model, owners, exclude)
    ordered = [v for v in model.trainable_variables if id(v) in chosen]
    short = [f"{owners[id(v)].name}/{v.name}" for v in ordered]
    names = [name if short.count(name) == 1 else v.path for name, v in zip(short, ordered, strict=True)]
    # Layers of one name in one place have one path, too.
    earlier = [names[:i].count(name) for i, name in enumerate(names)]
    return {f"{n}_{e}" if e else n: v for n, e, v in zip(names, earlier, ordered, strict=True)}


def kernel_structures(model: keras.Model, kernels: Iterable[keras.Variable], structure: Structure) -> list[Structure]:
    """Adapts a structure to the axes of each kernel.

    Args:
      model: built.
      kernels: trainable variables of the model.
      structure: for all of them.

    Returns:
      One structure per kernel.
    """
    return [dataclasses.replace(structure, outputs=outputs) for _, outputs in kernel_axes(model, kernels)]


def kernel_axes(model: keras.Model, kernels: Iterable[keras.Variable]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The axes of each kernel that count inputs, and those that count outputs.

    Args:
      model: built.
      kernels: trainable variables of the model.

    Returns:
      A pair (inputs, outputs) of axes from 0 for each kernel.
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
) -> Masks:
    """Puts random masks on the kernels of a model and zeroes what they leave out.

    Args:
      model: a built Keras model; it stays a plain Keras model.
      sparsity: share of the kernels' weights that are zero (fraction, 0 to below 1); 0.9 as in the RigL paper's
        main table, section 4, or what the structure fixes. A mapping gives sparsities by the name or pattern of a
        kernel or layer, of which the last that fits counts; kernels that it does not name get no mask.
      distribution: `erk` (RigL paper, section 3), `er`, `uniform` or `str`; where the structure fixes the sparsity, it
        is uniform.
      structure: which weights may be active together, such as `NM(2, 4)`, `Block(4, 4)`, `Channel()` or
        `ConstantFanIn()`; each kernel gets the number of weights that comes nearest to its share.
      custom: sparsity of some kernels, by name or pattern as above (fraction); 0 leaves one dense, and `sparsity` is
        that of the others.
      power_scale: exponent of the ERK ratio; 1 in the RigL paper.
      first_layer_dense: whether `uniform` leaves the first kernel dense, as in the RigL paper's tables.
      include: which kernels are sparse, see `sparse_kernels`.
      exclude: which of them are not.
      seed: seed of the masks.

    Returns:
      The masks, to be given to `SparseOptimizer`.

    Raises:
      ValueError: if the model is not built or has no kernel to be made sparse, or for sparsities that cannot be.
    """
    kernels = _some(model, sparse_kernels(model, include, exclude))
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
    return Masks(list(kernels.values()), [tf.constant(v) for v in values], list(kernels), structures)


def _some(model: keras.Model, kernels: dict[str, keras.Variable]) -> dict[str, keras.Variable]:
    if not kernels:
        raise InputError(f"No trainable kernel of {model.name} was chosen; pass include= to say which to make sparse.")
    return kernels


def transfer_masks(
    source: Masks | str | os.PathLike[str],
    model: keras.Model,
    *,
    include: Rules = is_weight_matrix,
    exclude: Rules = (),
) -> Masks:
    """Puts the masks of one model, or of a file, onto another model of the same architecture.

    Args:
      source: masks, or a file from `Masks.save`.
      model: built; its kernels must be those that the masks were made for, in the same order and of the same shapes.
      include: which kernels are sparse, as when the masks were made.
      exclude: which of them are not.

    Returns:
      Masks of the model's own kernels, of the same structure; what they leave out is zero.

    Raises:
      ValueError: if the kernels are others, naming the first that differs.
    """
    if isinstance(source, Masks):
        origin = "another model"
        stored = source.stored()
    else:
        origin, stored = str(source), mask_files.read(source)
    kernels = _some(model, sparse_kernels(model, include, exclude))
    shapes = [kernel.shape for kernel in kernels.values()]
    mask_files.check_same_kernels(origin, stored.names, [v.shape for v in stored.values], list(kernels), shapes)
    structures = [
        kernel_structures(model, [kernel], parse(text))[0]
        for kernel, text in zip(kernels.values(), stored.structures, strict=True)
    ]
    return Masks(list(kernels.values()), stored.values, list(kernels), structures)
