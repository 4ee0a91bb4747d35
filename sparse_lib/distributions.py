"""Distributions of sparsity over layers: kernel shapes and a sparsity to integer weight counts.

Only names, shapes and numbers go in and out; nothing here needs TensorFlow.
"""

import fnmatch
import functools
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sparse_lib._utils.did_you_mean import closest_names
from sparse_lib._utils.errors import InputError

Shape = tuple[int, ...]

# Every accepted name, short or as in the first RigL code base, and the distribution it means.
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
    """Counts the zeros of a kernel: `rounding(sparsity * size)`.

    Args:
      size: number of weights of the kernel.
      sparsity: fraction of zeros, in [0, 1).
      rounding: "floor", as in the RigL code, or "ceil", as in its published ERK tables.

    Returns:
      The number of zeros, an exact integer.

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
    """Distributes an overall sparsity over kernels.

    With n the size of a kernel and S the overall sparsity, a kernel's density is
    `1 - S` (uniform) or `epsilon * (sum(dims) / prod(dims))^power_scale` (ER over the last two
    dimensions, ERK over all of them), where epsilon makes the weights add up to
    `sum(n - n_zeros(n, S))` and kernels that would exceed density 1 are dense.
    The overall sparsity is that of the kernels which no custom sparsity fixes.

    Args:
      shapes: shape of every kernel by its name, in order of the network.
      sparsity: overall fraction of zeros, in [0, 1).
      distribution: "uniform" (or "random"), "er" ("erdos_renyi"), "erk" ("erdos_renyi_kernel") or
        "str", the table learned by STR for ResNet-50. ERK is what RigL recommends (section 3).
      custom: sparsities fixed by name, in [0, 1); 0 keeps a kernel dense.
      power_scale: exponent of the ER and ERK densities; 1 in the RigL paper (section 3).
      first_layer_dense: fixes the first kernel as dense, as RigL does for uniform (section 3).
      rounding: how sparsities become counts in epsilon's equation, see `n_zeros`.

    Returns:
      The sparsity of every kernel by its name, in the order of `shapes`.

    Raises:
      ValueError: if a name, a shape or a number is not valid.
    """
    _check_known("distribution", distribution, _DISTRIBUTIONS)
    _check_known("rounding", rounding, _ROUNDINGS)
    _check_sparsity("The overall sparsity", sparsity)
    for name, shape in shapes.items():
        if not shape or min(shape) < 1:
            raise InputError(f"Kernel {name!r} has shape {shape}; give at least one weight.")
    fixed = _fixed_sparsities(shapes, custom or {}, first_layer_dense)
    free = {name: tuple(shape) for name, shape in shapes.items() if name not in fixed}

    kind = _DISTRIBUTIONS[distribution]
    if kind == "uniform":
        found = dict.fromkeys(free, float(sparsity))
    elif kind == "str":
        found = _from_str_table(shapes, sparsity)
    else:
        dims = {name: shape[-2:] if kind == "er" else shape for name, shape in free.items()}
        raw = {name: (sum(d) / math.prod(d)) ** power_scale for name, d in dims.items()}
        sizes = {name: math.prod(shape) for name, shape in free.items()}
        budget = sum(n - n_zeros(n, sparsity, rounding) for n in sizes.values())
        found = _capped(raw, sizes, budget)
    return {name: fixed[name] if name in fixed else found[name] for name in shapes}


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
    """Distributes an overall sparsity over kernels, as counts: `n - n_zeros(n, sparsity)` each.

    Args:
      shapes: shape of every kernel by its name, in order of the network.
      sparsity: overall fraction of zeros, in [0, 1).
      distribution: see `sparsities`.
      custom: see `sparsities`.
      power_scale: see `sparsities`.
      first_layer_dense: see `sparsities`.
      rounding: "floor" or "ceil", see `n_zeros`; floor leaves every kernel at least one weight.

    Returns:
      The number of non-zero weights of every kernel by its name, in the order of `shapes`.

    Raises:
      ValueError: if a name, a shape or a number is not valid.
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


def custom_by_kernel(kernels: Iterable[str], custom: Mapping[str, float] | None) -> dict[str, float]:
    """Custom sparsities by kernel, where the name of a layer stands for its kernels.

    Args:
      kernels: names such as `conv1/kernel`.
      custom: sparsity by name of a kernel or a layer, or by a pattern of such names, as `conv*` (fraction); of
        several that fit a kernel the last counts.

    Returns:
      Sparsity by name of a kernel; an unknown name stays, for `sparsities` to refuse.
    """
    names = list(kernels)
    by_kernel: dict[str, float] = {}
    for name, value in (custom or {}).items():
        fitting = [k for k in names if any(fnmatch.fnmatchcase(n, name) for n in (k, k.rpartition("/")[0]))]
        by_kernel |= dict.fromkeys(fitting or [name], value)
    return by_kernel


def str_table_sparsities() -> list[float]:
    """Lists the overall sparsities for which the STR table has a row.

    Returns:
      The sparsities in rising order.
    """
    return sorted(float(key) for key in _str_table()["sparsities"])


def _check_known(what: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise InputError(f"Unknown {what} {name!r}; use one of {sorted(known)}.")


def _check_sparsity(what: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{what} is {value}; give a fraction of zeros in [0, 1).")


def _fixed_sparsities(
    shapes: Mapping[str, Shape], custom: Mapping[str, float], first_layer_dense: bool
) -> dict[str, float]:
    unknown = sorted(set(custom) - set(shapes))
    if unknown:
        raise InputError(f"Custom sparsities name {unknown}; the kernels are {closest_names(unknown[0], shapes)}.")
    for name, value in custom.items():
        _check_sparsity(f"The custom sparsity of {name!r}", value)
    fixed = {name: float(value) for name, value in custom.items()}
    if first_layer_dense and shapes:
        first = next(iter(shapes))
        if fixed.setdefault(first, 0.0):
            raise InputError(
                f"The first kernel {first!r} has custom sparsity {fixed[first]}; "
                "remove it or set first_layer_dense to False."
            )
    return fixed


def _capped(raw: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> dict[str, float]:
    """Scales raw densities so that the weights add up to `budget`, none denser than 1."""
    free = dict(raw)
    scale = 0.0
    while free:
        scale = budget / sum(density * sizes[name] for name, density in free.items())
        highest = max(free.values())
        if scale * highest <= 1:
            break
        # Every kernel that ties for the highest density goes at once. What remains of the budget
        # stays positive: together they would have got more than all of their weights.
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
    """Yields the orders in which ResNet-50s list their layers.

    Each group of blocks opens with four layers of which one is the projection; libraries put it
    first, last or in between.
    """
    names = list(_str_table()["layers"])
    projections = [i for i, name in enumerate(names) if "bottleneck_projection" in name]
    for place in range(4):
        order = list(names)
        for start in projections:
            order.insert(start + place, order.pop(start))
        yield order


def _from_str_table(shapes: Mapping[str, Shape], sparsity: float) -> dict[str, float]:
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
