"""Networks of the experiments; every layer is named, so that checkpoints do not depend on what else was built."""

from sparse_lib.experiment.networks.lenet5 import lenet5
from sparse_lib.experiment.networks.mlp import mlp

NETWORKS = {"lenet5": lenet5, "mlp": mlp}

__all__ = ["NETWORKS", "lenet5", "mlp"]
