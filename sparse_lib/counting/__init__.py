"""FLOPs and size of sparse networks, by an exact rule and by the published one."""

from sparse_lib.counting.cost_model import CostModel, LayerCost, inference_flops, layer_costs, size_bytes
from sparse_lib.counting.training import pruning_flops_per_sample, step_flops, training_flops_per_sample
from sparse_lib.counting.width import width_multiplier

__all__ = [
    "CostModel",
    "LayerCost",
    "inference_flops",
    "layer_costs",
    "pruning_flops_per_sample",
    "size_bytes",
    "step_flops",
    "training_flops_per_sample",
    "width_multiplier",
]
