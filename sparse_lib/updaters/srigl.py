"""SRigL: RigL with a constant fan-in, and neurons that are ablated."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib.structures import ConstantFanIn, Structure
from sparse_lib.updaters.base import Kernel, Update, UpdateContext
from sparse_lib.updaters.drop_and_grow import share
from sparse_lib.updaters.rigl import RigL


@dataclasses.dataclass(frozen=True, kw_only=True)
class SRigL(RigL):
    """SRigL (Lasby et al. 2024, section 3.1): RigL in which every neuron has the same fan-in, or is ablated.

    salient = kept by |w| over the kernel, or grown by |g|;  a neuron with fewer than gamma * fan-in of them is ablated
    fan-in' = floor(budget / neurons that stay);  each grows by |g| from what it kept to that fan-in

    The budget of a kernel is what its mask started with. What a division leaves over is remembered, and goes to the
    neurons when their number next allows it. An ablated neuron never comes back.

    Attributes:
      ablation_threshold: gamma_sal; 0.3 in the paper for convolutional networks, 0.95 for vision transformers, section
        4; 0 ablates nothing.
      never_ablated: positions of the sparse kernels whose neurons all stay, negative ones from the end; the last one by
        default, since the neurons of a classifier's last kernel are its classes.
    """

    ablation_threshold: float = 0.3
    never_ablated: Sequence[int] = (-1,)

    def __post_init__(self) -> None:
        """Checks the threshold.

        Raises:
          ValueError: as in `DropAndGrow`, and for a threshold that is no fraction.
        """
        super().__post_init__()
        if not 0 <= self.ablation_threshold <= 1:
            raise InputError(f"ablation_threshold is {self.ablation_threshold}; give a fraction in [0, 1].")

    @property
    def state_specs(self) -> tuple[str, ...]:
        """Ones at as many weights as the budget has on top of the active ones."""
        return (*super().state_specs, "spare")

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Refuses all but constant fan-in."""
        super().check_structures(structures)
        others = [structure for structure in structures if not isinstance(structure, ConstantFanIn)]
        if others:
            raise InputError(
                f"SRigL needs a constant fan-in and the masks are {others[0]}: make them with "
                "structure=ConstantFanIn(), or use RigL."
            )
        if any(not -len(structures) <= place < len(structures) for place in self.never_ablated):
            raise InputError(
                f"never_ablated={tuple(self.never_ablated)} names no kernel: there are {len(structures)} sparse ones, "
                "from 0."
            )

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """New masks of one fan-in in each kernel."""
        fraction = self.fraction(context.step)
        never_ablated = {place % len(kernels) for place in self.never_ablated}
        return [
            self._updated(kernel, index, context, fraction, 0.0 if index in never_ablated else self.ablation_threshold)
            for index, kernel in enumerate(kernels)
        ]

    def _updated(
        self, kernel: Kernel, index: int, context: UpdateContext, fraction: tf.Tensor, threshold: float
    ) -> Update:
        structure = kernel.structure
        assert isinstance(structure, ConstantFanIn)
        active = structure.count(kernel.mask)
        drop = share(active, fraction)
        kept = structure.keep(self.drop_score(kernel), active - drop, kernel.mask)
        score = self.grow_score(kernel, context.stateless_seed(2 * index))
        before = structure.group_counts(kernel.mask)
        # The gradients of ablated neurons count for nothing.
        candidates = ~kept & structure.broadcast(before > 0, kernel.mask.shape)
        salient = structure.group_counts(kept | selection.top_k_mask(score, drop, candidates))
        stays = _staying(before, salient, threshold)
        neurons = selection.count_active(stays)
        budget = active + selection.count_active(kernel.state["spare"] > 0)
        inputs = kernel.mask.shape.num_elements() // stays.shape.num_elements()
        fan_in = tf.minimum(budget // tf.maximum(neurons, 1), inputs)
        quotas = fan_in * tf.cast(stays, tf.int32)
        kept &= structure.broadcast(stays, kernel.mask.shape)
        update = self.exchange(kernel, kept, structure.fill(score, quotas, kept), context, index)
        spare = tf.range(kernel.mask.shape.num_elements()) < budget - fan_in * neurons
        marks = tf.cast(tf.reshape(spare, kernel.mask.shape), kernel.weight.dtype)
        return update._replace(state={**kernel.state, "spare": marks})


def _staying(fan_in: tf.Tensor, salient: tf.Tensor, threshold: float) -> tf.Tensor:
    """Which neurons are not ablated: none is if all would be.

    Args:
      fan_in: active weights of each neuron, 0 for one that is ablated already (count).
      salient: salient weights of each (count).
      threshold: share of the fan-in that has to be salient (fraction).

    Returns:
      Boolean tensor of the same shape.
    """
    alive = fan_in > 0
    stays = alive & (tf.cast(salient, tf.float32) >= threshold * tf.cast(fan_in, tf.float32))
    return tf.where(tf.reduce_any(stays), stays, alive)
