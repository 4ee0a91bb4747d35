"""SRigL: RigL with a constant fan-in and ablation of neurons."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib.structures import ConstantFanIn, Structure
from sparse_lib.updaters.base import Kernel, Update, UpdateContext
from sparse_lib.updaters.drop_and_grow import truncated_product
from sparse_lib.updaters.rigl import RigL


@dataclasses.dataclass(frozen=True, kw_only=True)
class SRigL(RigL):
    """SRigL (Lasby et al. 2024, section 3.1): RigL in which every neuron has the same fan-in, or is ablated.

    salient = kept by |w| over the kernel, or grown by |g|;  a neuron with fewer than gamma * fan-in of them is ablated
    fan-in' = floor(budget / neurons that stay);  each neuron grows by |g| from its kept weights to that fan-in

    The budget of a kernel is the number of active weights of its first mask. The remainder of a division is kept in the
    state and used as soon as the number of neurons allows it. An ablated neuron never returns.

    Attributes:
      ablation_threshold: gamma_sal; 0.3 in the paper for convolutional networks, 0.95 for vision transformers, section
        4; 0 ablates nothing.
      never_ablated: positions of the sparse kernels whose neurons all stay, negative ones from the end; the last one by
        default, since the neurons of a classifier's last kernel are its classes.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8, structure=sparse_lib.ConstantFanIn())
      >>> updater = sparse_lib.SRigL(frequency=2, end_step=8)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> masks.values()[0].numpy().sum(axis=0).tolist()  # every neuron has the same fan-in
      [4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    """

    ablation_threshold: float = 0.3
    never_ablated: Sequence[int] = (-1,)

    def __post_init__(self) -> None:
        """Checks the threshold.

        Raises:
          ValueError: as in `DropAndGrow`, and for a threshold outside [0, 1].
        """
        super().__post_init__()
        if not 0 <= self.ablation_threshold <= 1:
            raise InputError(f"ablation_threshold is {self.ablation_threshold}; give a fraction in [0, 1].")

    @property
    def state_specs(self) -> tuple[str, ...]:
        """`spare`: ones at as many weights as the budget exceeds the active ones by."""
        return (*super().state_specs, "spare")

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Checks that every kernel has a constant fan-in, and that `never_ablated` names kernels."""
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
        """Ablates neurons, then drops and grows to the new fan-in of each kernel."""
        fraction = self.fraction(context.step)
        total = len(kernels) + len(context.left_out)
        safe = {place % total for place in self.never_ablated}
        indices = [index for index in range(total) if index not in context.left_out]
        return [
            self._update_kernel(kernel, index, context, fraction, 0.0 if index in safe else self.ablation_threshold)
            for index, kernel in zip(indices, kernels, strict=True)
        ]

    def _update_kernel(
        self, kernel: Kernel, index: int, context: UpdateContext, fraction: tf.Tensor, threshold: float
    ) -> Update:
        structure = kernel.structure
        assert isinstance(structure, ConstantFanIn)
        active = structure.count(kernel.mask)
        drop = truncated_product(active, fraction)
        kept = structure.keep(self.drop_score(kernel), active - drop, kernel.mask)
        score = self.grow_score(kernel, context.stateless_seed(2 * index))
        before = structure.group_counts(kernel.mask)
        # Ablated neurons do not grow.
        candidates = ~kept & structure.broadcast(before > 0, kernel.mask.shape)
        salient = structure.group_counts(kept | selection.top_k_mask(score, drop, candidates))
        stays = _select_neurons(before, salient, threshold)
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


def _select_neurons(fan_in: tf.Tensor, salient: tf.Tensor, threshold: float) -> tf.Tensor:
    """Selects the neurons that are not ablated; if all would be, none is.

    Args:
      fan_in: active weights of each neuron, 0 for an ablated one (count).
      salient: salient weights of each neuron (count).
      threshold: share of the fan-in that has to be salient (fraction).

    Returns:
      Boolean tensor of the shape of `fan_in`.
    """
    alive = fan_in > 0
    stays = alive & (tf.cast(salient, tf.float32) >= threshold * tf.cast(fan_in, tf.float32))
    return tf.where(tf.reduce_any(stays), stays, alive)
