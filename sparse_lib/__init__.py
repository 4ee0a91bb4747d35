"""Sparse training, masks and gradient-flow analysis for Keras 3 models on TensorFlow.

The public names are imported when they are first used: `import sparse_lib` costs nothing, and a command line can
answer --help before TensorFlow is there.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_lib.api import is_weight_matrix, kernel_structures, sparse_kernels, sparsify, transfer_masks
    from sparse_lib.masks import Masks
    from sparse_lib.objective import Objective
    from sparse_lib.oneshot import OneShot
    from sparse_lib.optimizer import Growth, SparseOptimizer
    from sparse_lib.schedules import PolynomialSparsity, UpdateSchedule
    from sparse_lib.structures import NM, Block, Channel, ConstantFanIn, Structure
    from sparse_lib.updaters import (
        DNW,
        MEST,
        SET,
        SNFS,
        GraNet,
        Prune,
        RigL,
        RigLInverted,
        SRigL,
        Static,
        TopKAST,
        Updater,
    )

_HOME = {
    "is_weight_matrix": "api",
    "kernel_structures": "api",
    "sparse_kernels": "api",
    "sparsify": "api",
    "transfer_masks": "api",
    "Objective": "functional",
    "Masks": "masks",
    "OneShot": "oneshot",
    "Growth": "optimizer",
    "SparseOptimizer": "optimizer",
    "PolynomialSparsity": "schedules",
    "UpdateSchedule": "schedules",
    "NM": "structures",
    "Block": "structures",
    "Channel": "structures",
    "ConstantFanIn": "structures",
    "Structure": "structures",
    "DNW": "updaters",
    "MEST": "updaters",
    "SET": "updaters",
    "SNFS": "updaters",
    "GraNet": "updaters",
    "Prune": "updaters",
    "RigL": "updaters",
    "RigLInverted": "updaters",
    "SRigL": "updaters",
    "Static": "updaters",
    "TopKAST": "updaters",
    "Updater": "updaters",
}

__all__ = [
    "DNW",
    "MEST",
    "NM",
    "SET",
    "SNFS",
    "Block",
    "Channel",
    "ConstantFanIn",
    "GraNet",
    "Growth",
    "Masks",
    "Objective",
    "OneShot",
    "PolynomialSparsity",
    "Prune",
    "RigL",
    "RigLInverted",
    "SRigL",
    "SparseOptimizer",
    "Static",
    "Structure",
    "TopKAST",
    "UpdateSchedule",
    "Updater",
    "is_weight_matrix",
    "kernel_structures",
    "sparse_kernels",
    "sparsify",
    "transfer_masks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
