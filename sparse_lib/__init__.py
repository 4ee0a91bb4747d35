"""Sparse training, masks and gradient-flow analysis for Keras 3 models on TensorFlow.

Public names are imported on first use, so that `import sparse_lib` is instant and a command line can answer --help
before TensorFlow is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

# Public names by module; `__all__` and the imports on first use are derived from it.
_EXPORTS = {
    "_utils.errors": "InputError",
    "api": "initialize is_weight_matrix kernel_structures sparse_kernels sparsify transfer_masks",
    "masks": "Masks",
    "objective": "Objective",
    "oneshot": "OneShot",
    "optimizer": "EarlyStopping Growth SignIn SparseOptimizer SuPar",
    "rewinding": "Snapshot rewind",
    "schedules": "PolynomialSparsity UpdateSchedule",
    "stripping": "strip",
    "structures": "Block Channel ConstantFanIn NM Structure",
    "updaters": "ACDC CHT CHTs DNW GraNet MEST Prune RigL RigLInverted SET SNFS SRigL Static TopKAST Updater",
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names.split()}

__all__ = sorted(_MODULES)  # noqa: PLE0605  (a list, though no literal one)

if TYPE_CHECKING:
    # For type checkers and editors, which do not run the function below; a test holds the two lists equal.
    from sparse_lib._utils.errors import InputError as InputError
    from sparse_lib.api import initialize as initialize
    from sparse_lib.api import is_weight_matrix as is_weight_matrix
    from sparse_lib.api import kernel_structures as kernel_structures
    from sparse_lib.api import sparse_kernels as sparse_kernels
    from sparse_lib.api import sparsify as sparsify
    from sparse_lib.api import transfer_masks as transfer_masks
    from sparse_lib.masks import Masks as Masks
    from sparse_lib.objective import Objective as Objective
    from sparse_lib.oneshot import OneShot as OneShot
    from sparse_lib.optimizer import EarlyStopping as EarlyStopping
    from sparse_lib.optimizer import Growth as Growth
    from sparse_lib.optimizer import SignIn as SignIn
    from sparse_lib.optimizer import SparseOptimizer as SparseOptimizer
    from sparse_lib.optimizer import SuPar as SuPar
    from sparse_lib.rewinding import Snapshot as Snapshot
    from sparse_lib.rewinding import rewind as rewind
    from sparse_lib.schedules import PolynomialSparsity as PolynomialSparsity
    from sparse_lib.schedules import UpdateSchedule as UpdateSchedule
    from sparse_lib.stripping import strip as strip
    from sparse_lib.structures import NM as NM
    from sparse_lib.structures import Block as Block
    from sparse_lib.structures import Channel as Channel
    from sparse_lib.structures import ConstantFanIn as ConstantFanIn
    from sparse_lib.structures import Structure as Structure
    from sparse_lib.updaters import ACDC as ACDC
    from sparse_lib.updaters import CHT as CHT
    from sparse_lib.updaters import DNW as DNW
    from sparse_lib.updaters import MEST as MEST
    from sparse_lib.updaters import SET as SET
    from sparse_lib.updaters import SNFS as SNFS
    from sparse_lib.updaters import CHTs as CHTs
    from sparse_lib.updaters import GraNet as GraNet
    from sparse_lib.updaters import Prune as Prune
    from sparse_lib.updaters import RigL as RigL
    from sparse_lib.updaters import RigLInverted as RigLInverted
    from sparse_lib.updaters import SRigL as SRigL
    from sparse_lib.updaters import Static as Static
    from sparse_lib.updaters import TopKAST as TopKAST
    from sparse_lib.updaters import Updater as Updater


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
