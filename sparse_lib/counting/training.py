"""FLOPs of training."""

from collections.abc import Callable, Iterable
from typing import TypeVar, get_args

from sparse_lib._utils.errors import InputError
from sparse_lib.updaters import WeightGradient

Number = TypeVar("Number", int, float)


def step_flops(
    weight_gradient: WeightGradient,
    dense_flops: Number,
    sparse_flops: Number,
    is_mask_update: bool = False,
    backward_flops: Number | None = None,
) -> Number:
    """FLOPs of one training step for one example, so that a loop can sum exact integers.

    Forward f_S, gradient of the activations f_S, and gradient of the weights:

    - "sparse": f_S for static masks, one-shot pruning, pruning and AC/DC (f_S of the current sparsity),
      SET, MEST and CHT: 3 f_S;
    - "dense": f_D in every step for SNFS (appendix H of arXiv 1911.11134) and DNW, all of whose
      weights receive a gradient (Wortsman et al. 2019): 2 f_S + f_D;
    - "dense_at_updates": f_D at mask updates and f_S else for RigL, its variants and GraNet
      (appendix H);
    - "backward_set": f_B for Top-KAST, the forward FLOPs of the larger set B that trains
      (Jayakumar et al. 2020): 2 f_S + f_B.

    Dense training is 3 f_D, f_S being f_D. As in appendix H, one-shot scores, sorting, growth and
    Hessian products are left out.

    Args:
      weight_gradient: of the method, such as `updaters.RigL.weight_gradient`.
      dense_flops: f_D, inference FLOPs of the dense network.
      sparse_flops: f_S, inference FLOPs with the current masks.
      is_mask_update: whether the masks change in this step.
      backward_flops: f_B; for "backward_set" alone.

    Returns:
      FLOPs, an integer for integers.

    Raises:
      ValueError: if the kind is unknown, or "backward_set" comes without f_B.
    """
    if weight_gradient not in get_args(WeightGradient):
        raise InputError(
            f"weight_gradient={weight_gradient!r} is not known: use {', '.join(get_args(WeightGradient))}; an updater "
            "has its own, such as updaters.RigL.weight_gradient."
        )
    if weight_gradient == "backward_set":
        if backward_flops is None:
            raise InputError("weight_gradient='backward_set' needs backward_flops, the FLOPs of the set B.")
        return 2 * sparse_flops + backward_flops
    needs_dense = weight_gradient == "dense" or (weight_gradient == "dense_at_updates" and is_mask_update)
    return 2 * sparse_flops + (dense_flops if needs_dense else sparse_flops)


def training_flops_per_sample(
    weight_gradient: WeightGradient,
    dense_flops: float,
    sparse_flops: float,
    frequency: int = 100,
    backward_flops: float | None = None,
) -> float:
    """Average FLOPs of training on one example (Evci et al. 2020, appendix H).

    (dT step + update) / (dT + 1),  for RigL (3 f_S dT + 2 f_S + f_D) / (dT + 1)

    where the others' update costs as much as their step. For pruning see `pruning_flops_per_sample`.

    Args:
      weight_gradient: as in `step_flops`.
      dense_flops: f_D, inference FLOPs of the dense network.
      sparse_flops: f_S, inference FLOPs of the sparse network.
      frequency: dT, steps between mask updates; 100 as in section 4 of the paper.
      backward_flops: f_B; for "backward_set" alone.

    Returns:
      FLOPs per example.

    Raises:
      ValueError: as in `step_flops`, or if the frequency is not positive.
    """
    if frequency < 1:
        raise InputError(f"The frequency of mask updates must be at least 1 step, got {frequency}.")
    step, update = (
        step_flops(weight_gradient, dense_flops, sparse_flops, is_update, backward_flops) for is_update in (False, True)
    )
    return (step * frequency + update) / (frequency + 1)


def pruning_flops_per_sample(flops_at: Callable[[float], float], sparsities: Iterable[float]) -> float:
    """Average FLOPs of training on one example while a network is pruned (Evci et al. 2020, appendix H).

    E_t[3 f(s_t)],  which is E_t[3 f_D (1 - s_t)] where all layers have the same sparsity

    Args:
      flops_at: maps the overall sparsity (fraction) to inference FLOPs.
      sparsities: the sparsity at each step of training, or at evenly spaced steps.

    Returns:
      FLOPs per example.

    Raises:
      ValueError: if there is no step.
    """
    steps = [3 * flops_at(sparsity) for sparsity in sparsities]
    if not steps:
        raise InputError("The average over pruning needs at least one step.")
    return sum(steps) / len(steps)
