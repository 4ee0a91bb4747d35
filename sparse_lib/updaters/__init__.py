"""Mask updates as pure transitions: (mask, weight, gradient, state, step) -> (mask, weight, grown, state).

An updater is a frozen dataclass without variables. It declares its state between steps (a dense momentum, weights that
train without being used) in `state_specs`, and `SparseOptimizer` stores it. A new method is one class in one file, one
entry of `REGISTRY` and one row in the contract test.
"""

from collections.abc import Callable
from typing import TypeVar

from sparse_lib._utils.errors import InputError
from sparse_lib.updaters.acdc import ACDC
from sparse_lib.updaters.base import Kernel, State, Static, Update, UpdateContext, Updater, WeightGradient
from sparse_lib.updaters.cht import CHT, CHTs
from sparse_lib.updaters.drop_and_grow import DropAndGrow
from sparse_lib.updaters.granet import GraNet
from sparse_lib.updaters.growth_values import GrowthInit, GrowthValue
from sparse_lib.updaters.mest import MEST
from sparse_lib.updaters.prune import Prune
from sparse_lib.updaters.rigl import SET, RigL, RigLAuto, RigLGraSP, RigLInverted, RigLSNIP
from sparse_lib.updaters.snfs import SNFS
from sparse_lib.updaters.srigl import SRigL
from sparse_lib.updaters.static_reinit import StaticReinit
from sparse_lib.updaters.topkast import DNW, TopKAST

__all__ = [
    "ACDC",
    "CHT",
    "DNW",
    "MEST",
    "REGISTRY",
    "SET",
    "SNFS",
    "CHTs",
    "DropAndGrow",
    "GraNet",
    "GrowthInit",
    "GrowthValue",
    "Kernel",
    "Prune",
    "RigL",
    "RigLAuto",
    "RigLGraSP",
    "RigLInverted",
    "RigLSNIP",
    "SRigL",
    "State",
    "Static",
    "StaticReinit",
    "TopKAST",
    "Update",
    "UpdateContext",
    "Updater",
    "WeightGradient",
    "register",
]

AnyUpdater = TypeVar("AnyUpdater", bound=type[Updater])

# Updaters by the name that configurations, tables and reports use, in the order of the tables.
REGISTRY: dict[str, type[Updater]] = {
    "static": Static,
    "static_reinit": StaticReinit,
    "set": SET,
    "rigl": RigL,
    "rigl_inverted": RigLInverted,
    "rigl_s": RigLSNIP,
    "rigl_grasp": RigLGraSP,
    "riglauto": RigLAuto,
    "srigl": SRigL,
    "snfs": SNFS,
    "mest": MEST,
    "cht": CHT,
    "chts": CHTs,
    "granet": GraNet,
    "acdc": ACDC,
    "topkast": TopKAST,
    "dnw": DNW,
}


def register(name: str) -> Callable[[AnyUpdater], AnyUpdater]:
    """Makes an updater from outside the package known under a name: `@register("noisy_rigl")`.

    Args:
      name: for `mask_updater.update_alg`; letters, digits and underscores.

    Returns:
      A class decorator that adds the class to `REGISTRY` and returns it.

    Raises:
      ValueError: if the name is no identifier, or belongs to another class.
    """
    if not name.isidentifier():
        raise InputError(f"An updater cannot be registered as {name!r}: use letters, digits and underscores.")

    def add(updater: AnyUpdater) -> AnyUpdater:
        known = REGISTRY.setdefault(name, updater)
        # A module that is loaded again defines its classes again.
        if (known.__module__, known.__qualname__) != (updater.__module__, updater.__qualname__):
            raise InputError(f"{name!r} is the name of {known.__module__}.{known.__qualname__}: choose another one.")
        REGISTRY[name] = updater
        return updater

    return add
