"""A Keras optimizer that wraps a Keras optimizer, keeps its kernels sparse and changes their masks."""

from sparse_lib.optimizer.early_stopping import EarlyStopping
from sparse_lib.optimizer.growth import Growth
from sparse_lib.optimizer.model_steps import execute_model_steps, restore_model_steps
from sparse_lib.optimizer.packed import PackedKernels
from sparse_lib.optimizer.sign_in import SignIn
from sparse_lib.optimizer.sparse_optimizer import SparseOptimizer
from sparse_lib.optimizer.supar import SuPar

__all__ = [
    "EarlyStopping",
    "Growth",
    "PackedKernels",
    "SignIn",
    "SparseOptimizer",
    "SuPar",
    "execute_model_steps",
    "restore_model_steps",
]
