"""Masks for any Keras model: `sparsify`, `transfer_masks`, and sparsity-aware initial weights, `initialize`."""

import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import distributions, initializers, mask_sources
from sparse_lib._keras import fitting
from sparse_lib._keras.optimizers import unwrap
from sparse_lib._utils.errors import InputError
from sparse_lib.execution import Execution, Mode
from sparse_lib.kernels import (
    KernelFilter,
    Rule,
    Rules,
    check_model,
    is_weight_matrix,
    kernel_axes,
    kernel_structures,
    sparse_kernels,
)
from sparse_lib.masks import Masks
from sparse_lib.objective import Loss
from sparse_lib.optimizer import SparseOptimizer, execute_model_steps
from sparse_lib.structures import UNSTRUCTURED, Structure

__all__ = [
    "KernelFilter",
    "MaskSource",
    "Rule",
    "Rules",
    "draw_kernels",
    "initialize",
    "is_weight_matrix",
    "kernel_axes",
    "kernel_structures",
    "sparse_kernels",
    "sparsify",
    "transfer_masks",
]

_TRAINED = (
    "{} looks trained, and random masks zero its weights wherever they fall: give masks='magnitude' to keep the "
    "largest, or masks='random' if this is meant."
)
_PLAIN = (
    "Nothing keeps {} sparse under this optimizer, which moves the zeros: wrap it, SparseOptimizer(optimizer, masks)."
)

MaskSource: TypeAlias = mask_sources.Method | str | os.PathLike[str] | Masks


def sparsify(
    model: keras.Model,
    sparsity: float | Mapping[str, float] | None = None,
    distribution: str | None = None,
    *,
    masks: MaskSource | None = None,
    data: Any = None,
    loss: Loss | None = None,
    keep: Masks | None = None,
    structure: Structure = UNSTRUCTURED,
    custom: Mapping[str, float] | None = None,
    power_scale: float = 1.0,
    first_layer_dense: bool = False,
    include: Rules = is_weight_matrix,
    exclude: Rules = (),
    seed: int = 0,
    execution: Mode = "auto",
) -> Masks:
    """Makes a model sparse: chooses the active weights of its kernels and zeroes all others.

    Args:
      model: a built Keras model; it stays a plain Keras model.
      sparsity: share of zeros over all sparse kernels (fraction), in [0, 1); None means 0.9, as in the RigL paper's
        main table (section 4), or the sparsity that the structure fixes. A mapping gives sparsities by name or pattern
        of kernels or layers, where the last match wins and kernels without a match get no mask.
      distribution: of the sparsity over kernels: `erk` (RigL paper, section 3), `er`, `uniform`, `str`, or `global`, a
        ranking of the weights of all kernels together. None means `erk` for random masks and `global` for scores, as
        in the papers of these, but `uniform` for `wanda`; always uniform where the structure fixes the sparsity.
      masks: which weights are active. `random` suits a new model. `magnitude` keeps the largest weights, for a trained
        one, `wanda` the largest products with the inputs. `snip`, `grasp` and `synflow` score the weights of a new
        model, see `sparse_lib.oneshot`. A path is a file from `Masks.save` or a checkpoint (`runs/prune/ckpt-500`,
        `runs/prune`, `model.weights.h5`); `Masks` are those of a model of the same architecture. None means `random`,
        with a warning if the model looks trained.
      data: examples for `snip`, `grasp` and `wanda`: arrays (x, y), a `tf.data.Dataset` of batches, or other batches.
      loss: for these, a Keras loss or (y_true, outputs) -> losses; None means cross-entropy of labels and logits.
      keep: earlier masks of this model. Their kernels keep their masks, and all else is about kernels that are not
        among them, such as those of a layer that was frozen until now. Kernels that do not train now are left out.
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
      The masks, an argument of `SparseOptimizer`. Training under another optimizer warns once, since nothing would keep
      the zeros.

    Raises:
      ValueError: if the model is not built, no kernel is chosen, a sparsity is out of range, or the masks do not fit.

    Warns:
      UserWarning: if random masks, which nobody asked for, fall on a trained model.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(50), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, sparsity=0.9)
      >>> masks.active()  # ERK: the smaller kernel is denser
      [393, 158]
      >>> model.layers[0].count_params()  # the model is still a plain Keras model
      5050

      A trained model keeps its largest weights:

      >>> trained = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
      >>> trained.set_weights([np.array([[0.5, -2.0], [3.0, 0.25]])])
      >>> masks = sparse_lib.sparsify(trained, 0.5, masks="magnitude")
      >>> trained.get_weights()[0].tolist()
      [[0.0, -2.0], [3.0, 0.0]]
    """
    check_model(model)
    _check_types(sparsity, structure, keep)
    stored = None if masks is None or mask_sources.is_method(masks) else masks
    if stored is not None and (sparsity is not None or distribution is not None or custom):
        raise InputError("These masks have their own sparsity: leave sparsity, distribution and custom out.")
    chosen = _require_kernels(model, sparse_kernels(model, include, exclude))
    new = chosen if keep is None else _leave_out(chosen, keep)
    if stored is not None:
        values, structures = mask_sources.read(stored, model, new, structure)
    else:
        new, named = _resolve_names(chosen, new, sparsity, custom)
        structures = kernel_structures(model, new.values(), structure)
        budget = mask_sources.Budget(
            0.0 if isinstance(sparsity, Mapping) else _default_sparsity(sparsity, structure),
            _default_distribution(distribution, masks, structure),
            named,
            power_scale,
            first_layer_dense,
        )
        structure.check_sparsity(budget.sparsity)
        method = "random" if masks is None else str(masks)
        values = mask_sources.select(method, model, new, structures, budget, data=data, loss=loss, seed=seed)
        if masks is None and fitting.looks_trained(model) and not all(np.all(value) for value in values):
            warnings.warn(_TRAINED.format(model.name), stacklevel=2)
    fitting.warn_unless(model, _is_sparse_optimizer, _PLAIN.format(model.name))
    if keep is not None:
        return _execute(model, _join(model, keep, new, values, structures), execution)
    return _execute(model, Masks(list(new.values()), values, list(new), structures, model=model), execution)


def _check_types(sparsity: Any, structure: Any, keep: Any) -> None:
    if isinstance(structure, type) or not isinstance(structure, Structure):
        raise InputError(f"The structure is {structure!r}: give an instance such as NM(2, 4) or Channel().")
    if isinstance(sparsity, bool) or not isinstance(sparsity, Mapping | Real | None):
        raise InputError(f"The sparsity is {sparsity!r}: give a fraction of zeros in [0, 1), or a mapping from names.")
    if keep is not None and not isinstance(keep, Masks):
        raise InputError(f"keep= takes the masks of an earlier sparsify(model), got {keep!r}.")


def _execute(model: keras.Model, masks: Masks, mode: Mode) -> Masks:
    masks.execution = Execution(model, masks, mode)
    execute_model_steps(model, masks.execution)
    return masks


def _require_kernels(model: keras.Model, kernels: dict[str, keras.Variable]) -> dict[str, keras.Variable]:
    if not kernels:
        raise InputError(f"No trainable kernel of {model.name} was chosen; pass include= to say which to make sparse.")
    return kernels


def _leave_out(kernels: Mapping[str, keras.Variable], keep: Masks) -> dict[str, keras.Variable]:
    kept = {id(kernel) for kernel in keep.kernels}
    return {name: kernel for name, kernel in kernels.items() if id(kernel) not in kept}


def _resolve_names(
    chosen: Mapping[str, keras.Variable],
    new: dict[str, keras.Variable],
    sparsity: Any,
    custom: Mapping[str, float] | None,
) -> tuple[dict[str, keras.Variable], dict[str, float]]:
    """The kernels to make sparse, and the sparsities that are given by name."""
    is_mapping = isinstance(sparsity, Mapping)
    named = distributions.custom_by_kernel(chosen, {**(sparsity if is_mapping else {}), **(custom or {})})
    if is_mapping and set(named) <= set(chosen):
        new = {name: kernel for name, kernel in new.items() if name in named}
    # Unknown names are refused where all names are at hand; those of kernels that keep their masks say nothing.
    return new, {name: value for name, value in named.items() if name in new or name not in chosen}


def _default_sparsity(sparsity: float | None, structure: Structure) -> float:
    if sparsity is not None:
        return sparsity
    return 0.9 if structure.fixed_sparsity is None else structure.fixed_sparsity


def _default_distribution(distribution: str | None, masks: Any, structure: Structure) -> str:
    if structure.fixed_sparsity is not None:
        return "uniform"
    if distribution is not None:
        return distribution
    return "erk" if masks in (None, "random") else mask_sources.distribution_of(masks)


def _is_sparse_optimizer(optimizer: Any) -> bool:
    return isinstance(unwrap(optimizer), SparseOptimizer)


def _join(
    model: keras.Model,
    keep: Masks,
    new: Mapping[str, keras.Variable],
    values: Sequence[Any],
    structures: Sequence[Structure],
) -> Masks:
    """Masks of old and new kernels that train, in the order of the model."""
    parts = {id(k): (v, s) for k, v, s in zip(keep.kernels, keep.values(), keep.structures, strict=True)}
    parts |= {id(k): (v, s) for k, v, s in zip(new.values(), values, structures, strict=True)}
    kernels = sparse_kernels(model, lambda _, variable: id(variable) in parts)
    ordered = [parts[id(kernel)] for kernel in kernels.values()]
    return Masks(
        list(kernels.values()), [v for v, _ in ordered], list(kernels), [s for _, s in ordered], model=model, keep=keep
    )


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
    kernels = _require_kernels(model, sparse_kernels(model, include, exclude))
    values, structures = mask_sources.read(source, model, kernels)
    fitting.warn_unless(model, _is_sparse_optimizer, _PLAIN.format(model.name))
    return _execute(model, Masks(list(kernels.values()), values, list(kernels), structures, model=model), execution)


def initialize(
    model: keras.Model,
    masks: Masks,
    scheme: Literal["unit_scaled", "layer_scaled"] = "unit_scaled",
    *,
    method: str = "fanin_normal",
    scale: float = 2.0,
    seed: int = 0,
) -> None:
    """Draws the sparse kernels anew, with the variance that their masks need.

    Var(w) = scale / active fan-in of the unit, for the defaults: the sparsity-aware initialisation of the gradient-flow
    paper (Evci et al. 2022, arXiv 2010.03533, section 3.1), under which the signal of a sparse network neither fades
    nor grows from layer to layer. Biases and dense kernels stay.

    Args:
      model: a built model.
      masks: of its kernels.
      scheme: `unit_scaled` counts the connections of every unit, `layer_scaled` those of the whole kernel (Liu et al.
        2019), see `sparse_lib.initializers`.
      method: `fanin`, `fanout` or `fanavg`, followed by `_normal` or `_uniform`.
      scale: numerator of the variance: 2 for rectifiers (He), 1 for others (Glorot, with `fanavg`).
      seed: random seed; kernel i draws from seed + i.

    Raises:
      ValueError: for an unknown scheme or method, a scale that is not positive, or masks of another model.

    Examples:
      >>> import keras
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((400,)), keras.layers.Dense(300, "relu")])
      >>> masks = sparse_lib.sparsify(model, 0.9, "uniform")
      >>> sparse_lib.initialize(model, masks)
      >>> kernel = model.layers[0].kernel.numpy()
      >>> round(float(kernel[kernel != 0].std()), 1)  # about sqrt(2 / 40) = 0.22; a dense kernel has sqrt(2 / 400)
      0.2
    """
    schemes = {"unit_scaled": initializers.unit_scaled, "layer_scaled": initializers.layer_scaled}
    if scheme not in schemes:
        raise InputError(f"Unknown scheme {scheme!r}: use {' or '.join(schemes)}.")
    if not isinstance(masks, Masks):
        raise InputError(f"The second argument is the masks from sparsify(model), got {masks!r}.")
    draw_kernels(model, masks, functools.partial(schemes[scheme], method=method, scale=scale), seed=seed)


def draw_kernels(model: keras.Model, masks: Masks, initializer: Callable[..., tf.Tensor], *, seed: int) -> None:
    """Assigns new values to the sparse kernels.

    Args:
      model: a built model.
      masks: of its kernels.
      initializer: maps a mask, and the keywords seed, inputs and outputs, to values, like
        `initializers.unit_scaled`.
      seed: of the first kernel; kernel i draws from seed + i.

    Raises:
      ValueError: if a kernel is not one of the model.
    """
    known = {id(variable) for variable in model.trainable_variables}
    foreign = [name for name, kernel in zip(masks.names, masks.kernels, strict=True) if id(kernel) not in known]
    if foreign:
        raise InputError(f"{', '.join(foreign)} is no trainable kernel of {model.name}: give the masks of this model.")
    axes = kernel_axes(model, masks.kernels)
    for index, ((kernel, mask), (inputs, outputs)) in enumerate(zip(masks, axes, strict=True)):
        kernel.assign(initializer(tf.convert_to_tensor(mask), seed=seed + index, inputs=inputs, outputs=outputs))
