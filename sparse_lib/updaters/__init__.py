"""Mask updates as pure transitions: (mask, weight, gradient, state, step) -> (mask, weight, grown, state).

An updater is a frozen dataclass without variables. What a method has to remember between steps (a dense momentum,
weights that train without being used) it declares in `state_specs`, and `SparseOptimizer` keeps it. A new method is
one class in one file, one line here and one row in the contract test.
"""

from sparse_lib.updaters.base import Kernel, State, Static, Update, UpdateContext, Updater
from sparse_lib.updaters.drop_and_grow import DropAndGrow, GrowthInit
from sparse_lib.updaters.granet import GraNet
from sparse_lib.updaters.mest import MEST
from sparse_lib.updaters.prune import Prune
from sparse_lib.updaters.rigl import SET, RigL, RigLAuto, RigLGraSP, RigLInverted, RigLSNIP
from sparse_lib.updaters.snfs import SNFS
from sparse_lib.updaters.srigl import SRigL
from sparse_lib.updaters.topkast import DNW, TopKAST

__all__ = [
    "DNW",
    "MEST",
    "SET",
    "SNFS",
    "DropAndGrow",
    "GraNet",
    "GrowthInit",
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
    "TopKAST",
    "Update",
    "UpdateContext",
    "Updater",
]
