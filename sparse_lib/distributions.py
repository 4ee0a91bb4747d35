"""Distributions of sparsity over layers: from kernel shapes and an overall sparsity to counts of weights per kernel.

Pure functions of names, shapes and numbers; nothing here imports TensorFlow.
"""

import fnmatch
import functools
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from sparse_lib._utils.did_you_mean import closest_names
from sparse_lib._utils.errors import InputError

Shape = tuple[int, ...]
Value = TypeVar("Value")

# Accepted names, including those of the original RigL code.
_DISTRIBUTIONS = {
    "uniform": "uniform",
    "random": "uniform",
    "er": "er",
    "erdos_renyi": "er",
    "erk": "erk",
    "erdos_renyi_kernel": "erk",
    "str": "str",
}
_ROUNDINGS = {"floor": math.floor, "ceil": math.ceil}


def n_zeros(size: int, sparsity: float, rounding: str = "floor") -> int:
    """Number of zeros of a kernel, rounding(sparsity * size).

    Args:
      size: weights in the kernel (count).
      sparsity: share of zeros (fraction), in [0, 1).
      rounding: "floor", as in the RigL code, or "ceil", as in its published ERK tables.

    Returns:
      The number of zeros (count).

    Raises:
      ValueError: if the rounding is unknown.
    """
    _check_known("rounding", rounding, _ROUNDINGS)
    return _ROUNDINGS[rounding](sparsity * size)


def sparsities(
    shapes: Mapping[str, Shape],
    sparsity: float,
    *,
    distribution: str = "erk",
    custom: Mapping[str, float] | None = None,
    power_scale: float = 1.0,
    first_layer_dense: bool = False,
    rounding: str = "floor",
) -> dict[str, float]:
    """Distributes an overall sparsity over kernels, as sparsities.

    A kernel of size n has density

      1 - S                                             (uniform)
      epsilon * (sum(dims) / prod(dims))^power_scale    (ER: last two dimensions; ERK: all dimensions)

    where S is the overall sparsity and epsilon makes the weights add up to sum(n - n_zeros(n, S)); kernels that would
    exceed density 1 are dense. Kernels with a custom sparsity do not count towards S.

    Args:
      shapes: shape of each kernel by name, in network order.
      sparsity: overall share of zeros (fraction), in [0, 1).
      distribution: "uniform" (or "random"), "er" ("erdos_renyi"), "erk" ("erdos_renyi_kernel") or "str", the
        sparsities that STR learned for ResNet-50. RigL recommends ERK (section 3).
      custom: fixed sparsities by kernel name (fraction), in [0, 1); 0 keeps a kernel dense.
      power_scale: exponent of the ER and ERK densities; 1 in the RigL paper (section 3).
      first_layer_dense: keeps the first kernel dense, as RigL does for uniform (section 3).
      rounding: how sparsities are rounded to counts when solving for epsilon, see `n_zeros`.

    Returns:
      Sparsity of each kernel by name, in the order of `shapes`.

    Raises:
      ValueError: for an unknown name, an empty shape or a sparsity out of range.
    """
    _check_known("distribution", distribution, _DISTRIBUTIONS)
    _check_known("rounding", rounding, _ROUNDINGS)
    check_sparsity("The overall sparsity", sparsity)
    for name, shape in shapes.items():
        if not shape or min(shape) < 1:
            raise InputError(f"Kernel {name!r} has shape {shape}; give at least one weight.")
    fixed = _fixed_sparsities(shapes, custom or {}, first_layer_dense)
    free = {name: tuple(shape) for name, shape in shapes.items() if name not in fixed}

    kind = _DISTRIBUTIONS[distribution]
    if kind == "uniform":
        layers = dict.fromkeys(free, float(sparsity))
    elif kind == "str":
        layers = _look_up_str_table(shapes, sparsity)
    else:
        dims = {name: shape[-2:] if kind == "er" else shape for name, shape in free.items()}
        raw = {name: (sum(d) / math.prod(d)) ** power_scale for name, d in dims.items()}
        sizes = {name: math.prod(shape) for name, shape in free.items()}
        budget = sum(n - n_zeros(n, sparsity, rounding) for n in sizes.values())
        layers = _cap_densities(raw, sizes, budget)
    return {name: fixed[name] if name in fixed else layers[name] for name in shapes}


def nnz(
    shapes: Mapping[str, Shape],
    sparsity: float,
    *,
    distribution: str = "erk",
    custom: Mapping[str, float] | None = None,
    power_scale: float = 1.0,
    first_layer_dense: bool = False,
    rounding: str = "floor",
) -> dict[str, int]:
    """Distributes an overall sparsity over kernels, as counts n - n_zeros(n, sparsity of the kernel).

    Args:
      shapes: shape of each kernel by name, in network order.
      sparsity: overall share of zeros (fraction), in [0, 1).
      distribution: see `sparsities`.
      custom: see `sparsities`.
      power_scale: see `sparsities`.
      first_layer_dense: see `sparsities`.
      rounding: "floor" or "ceil", see `n_zeros`; floor leaves every kernel at least one weight.

    Returns:
      Number of active weights of each kernel by name, in the order of `shapes` (count).

    Raises:
      ValueError: for an unknown name, an empty shape or a sparsity out of range.

    Examples:
      >>> from sparse_lib import distributions
      >>> distributions.nnz({"conv": (3, 3, 16, 32), "logits": (128, 10)}, 0.9)  # ERK: the larger kernel is sparser
      {'conv': 166, 'logits': 424}
      >>> distributions.nnz({"conv": (3, 3, 16, 32), "logits": (128, 10)}, 0.9, distribution="uniform")
      {'conv': 461, 'logits': 128}
    """
    layers = sparsities(
        shapes,
        sparsity,
        distribution=distribution,
        custom=custom,
        power_scale=power_scale,
        first_layer_dense=first_layer_dense,
        rounding=rounding,
    )
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    return {name: sizes[name] - n_zeros(sizes[name], layers[name], rounding) for name in shapes}


def custom_by_kernel(kernels: Iterable[str], custom: Mapping[str, Value] | None) -> dict[str, Value]:
    """Resolves layer names and patterns in custom sparsities to kernel names.

    Args:
      kernels: kernel names such as `conv1/kernel`.
      custom: sparsity (fraction), or a schedule of it, by kernel name, layer name, or pattern of either such as
        `conv*`; the last match of a kernel wins.

    Returns:
      Sparsity by kernel name. Names without a match are kept, so that `sparsities` can report them.
    """
    names = list(kernels)
    by_kernel: dict[str, Value] = {}
    for name, value in (custom or {}).items():
        fitting = [k for k in names if any(fnmatch.fnmatchcase(n, name) for n in (k, k.rpartition("/")[0]))]
        by_kernel |= dict.fromkeys(fitting or [name], value)
    return by_kernel


def str_table_sparsities() -> list[float]:
    """Overall sparsities with a row in the STR table.

    Returns:
      The sparsities (fractions), ascending.
    """
    return sorted(float(key) for key in _str_table()["sparsities"])


def _check_known(what: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise InputError(f"Unknown {what} {name!r}; use one of {sorted(known)}.")


def check_sparsity(what: str, value: float) -> None:
    """Checks that a sparsity is a fraction of zeros in [0, 1).

    Args:
      what: the sparsity, the subject of the error.
      value: the sparsity (fraction).

    Raises:
      ValueError: if it is out of range.
    """
    if not 0 <= value < 1:
        raise InputError(f"{what} is {value}; give a fraction of zeros in [0, 1).")


def _fixed_sparsities(
    shapes: Mapping[str, Shape], custom: Mapping[str, float], first_layer_dense: bool
) -> dict[str, float]:
    unknown = sorted(set(custom) - set(shapes))
    if unknown:
        raise InputError(f"Custom sparsities name {unknown}; the kernels are {closest_names(unknown[0], shapes)}.")
    for name, value in custom.items():
        check_sparsity(f"The custom sparsity of {name!r}", value)
    fixed = {name: float(value) for name, value in custom.items()}
    if first_layer_dense and shapes:
        first = next(iter(shapes))
        if fixed.setdefault(first, 0.0):
            raise InputError(
                f"The first kernel {first!r} has custom sparsity {fixed[first]}; "
                "remove it or set first_layer_dense to False."
            )
    return fixed


def _cap_densities(raw: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> dict[str, float]:
    """Scales raw densities so that the weights add up to `budget`, with no density above 1."""
    free = dict(raw)
    scale = 0.0
    while free:
        scale = budget / sum(density * sizes[name] for name, density in free.items())
        highest = max(free.values())
        if scale * highest <= 1:
            break
        # All kernels tied at the highest density become dense at once. The budget stays positive: together they
        # would have received more than all of their weights.
        for name in [name for name, density in free.items() if density == highest]:
            budget -= sizes[name]
            del free[name]
    return {name: 1 - scale * raw[name] if name in free else 0.0 for name in raw}


@functools.cache
def _str_table() -> dict[str, Any]:
    path = pathlib.Path(__file__).parent / "str_sparsities.json"
    table: dict[str, Any] = json.loads(path.read_text())
    return table


def _str_orders() -> Iterator[list[str]]:
    """Yields the layer orders that ResNet-50 implementations use.

    Each group of blocks starts with four layers, one of them the projection, whose place differs between libraries.
    """
    names = list(_str_table()["layers"])
    projections = [i for i, name in enumerate(names) if "bottleneck_projection" in name]
    for place in range(4):
        order = list(names)
        for start in projections:
            order.insert(start + place, order.pop(start))
        yield order


def _look_up_str_table(shapes: Mapping[str, Shape], sparsity: float) -> dict[str, float]:
    table = _str_table()
    row = table["sparsities"].get(f"{sparsity:.4f}")
    if row is None:
        raise InputError(f"The STR table has no overall sparsity {sparsity}; use one of {str_table_sparsities()}.")
    by_name = dict(zip(table["layers"], row, strict=True))
    if set(shapes) <= set(by_name):
        return {name: by_name[name] for name in shapes}
    given = [list(shape) for shape in shapes.values()]
    for order in _str_orders():
        if given == [table["layers"][name] for name in order]:
            return {name: by_name[known] for name, known in zip(shapes, order, strict=True)}
    raise InputError(
        "The STR table fits only the 54 kernels of a ResNet-50, by name or in order of its "
        f"layers; these {len(given)} kernels are others: use another distribution."
    )
