"""CHT and CHTs: growth by the topology of the layer, without any gradient."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, WeightGradient, random_uniform
from sparse_lib.updaters.drop_and_grow import DropAndGrow, truncated_product
from sparse_lib.updaters.link_prediction import score_node_based, score_path_based

Predictor = Literal["ch3_l3", "ch2_l3n"]
Removal = Literal["magnitude", "relative_importance"]
_SCORES = {"ch3_l3": score_path_based, "ch2_l3n": score_node_based}
# Scores that differ by less than this share tie, and random numbers decide.
_TIE = 2.0**-20
# A weight of 0 in logarithms, which no chance lifts above others.
_ZERO = 1e-30


@dataclasses.dataclass(frozen=True, kw_only=True)
class CHT(DropAndGrow):
    """Cannistraci-Hebb training (Zhang et al. 2024): drop by magnitude, grow where link prediction expects a link.

    grow the highest CH3-L3(u, v) of the graph that is left after dropping, see `link_prediction`

    The active weights of a kernel are the links of a bipartite graph between its inputs and outputs; a convolution has
    one input per place of its window and channel, and one output per channel. Links of equal scores, such as 0 where no
    path of three links joins input and output, grow at random. No gradient is needed. The paper's initial topology
    (CSTI), its removal of the weights of disconnected neurons and its early stop are left out: the number of weights of
    a kernel is constant.

    Attributes:
      predictor: `ch3_l3` of the paper, section 3.2, or `ch2_l3n` of CHTs, which is much faster in large layers.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import CHT, schedules
      >>> from sparse_lib.updaters import Kernel, UpdateContext
      >>> mask = tf.constant([[True, True, False], [True, False, False], [False, False, True]])
      >>> weight = tf.where(mask, tf.constant([[3.0, 2.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.1]]), 0.0)
      >>> now = UpdateContext(step=tf.constant(0), learning_rate=tf.constant(0.1), seed=0)
      >>> kernel = Kernel(mask, weight, gradient=tf.zeros_like(weight), state={})
      >>> (update,) = CHT(drop_fraction=schedules.Constant(0.25)).update([kernel], now)
      >>> update.mask.numpy().astype(int).tolist()  # the smallest weight moves to the end of the only path of 3 links
      [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """

    weight_gradient: ClassVar[WeightGradient] = "sparse"

    predictor: Predictor = "ch3_l3"

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
          ValueError: as in `DropAndGrow`, for an unknown predictor, and for `redistribute`.
        """
        super().__post_init__()
        if self.predictor not in _SCORES:
            raise InputError(f"predictor={self.predictor!r} is not known; use {' or '.join(_SCORES)}.")
        if self.redistribute:
            raise InputError(f"{self.label} scores absent links alone: leave redistribute out.")

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """The predicted score of a link to the graph of `kernel.mask`; ties are broken at random."""
        score = self._predict(kernel)
        noise = tf.cast(random_uniform(kernel.mask.shape, seed), score.dtype)
        return score * (1.0 + _TIE * noise) + _TIE**3 * noise

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Drops, scores the graph that is left, and grows as many weights."""
        fraction, updates = self.fraction(context.step), []
        for index, kernel in enumerate(kernels):
            active = kernel.structure.count(kernel.mask)
            drop = truncated_product(active, fraction)
            kept = kernel.structure.keep(self._keep_score(kernel, context, index), active - drop, kernel.mask)
            score = self.grow_score(kernel._replace(mask=kept), context.stateless_seed(2 * index))
            growth = kernel.structure.grow(score, drop, kept)
            updates.append(self.exchange(kernel, kept, growth, context, index))
        return updates

    def _keep_score(self, kernel: Kernel, context: UpdateContext, index: int) -> tf.Tensor:
        """Ranks the active weights; the highest stay."""
        del context, index
        return self.drop_score(kernel)

    def _predict(self, kernel: Kernel) -> tf.Tensor:
        """Scores of all links, float64, of the kernel's shape."""
        structure = kernel.structure
        scores = _SCORES[self.predictor](structure.to_matrix(kernel.mask))
        return structure.from_matrix(scores, kernel.mask.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CHTs(CHT):
    """CHT with a soft rule (Zhang et al. 2025, arXiv 2501.19107): links are kept and grown by chance.

    P(keep) proportional to importance^T, P(grow) proportional to CH2-L3n,  both drawn without replacement
    importance_ij = |w_ij|, or |w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij|

    The draws are those of Gumbel noise on the logarithm of the weights. Links without a path of three links between
    their ends grow after all others, at random. With blocks and channels, the noisy logarithms are averaged per unit.

    Attributes:
      removal: importance by magnitude or relative importance; both are in the paper, section 3.1.
      exponents: T at the start and at the end of the annealing; 1 to 3, the delta of 0.5 to 0.75 of the paper, section
        3.1, with T = delta / (1 - delta), linear in the step as in the authors' code.
      annealing_end: step at which T reaches its last value (step); None means `end_step`.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8)
      >>> updater = sparse_lib.CHTs(frequency=2, end_step=8)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> masks.active(), masks.exploration_rate()[0] > 0.2  # more weights were active than are now
      ([40], True)
    """

    predictor: Predictor = "ch2_l3n"
    removal: Removal = "magnitude"
    exponents: tuple[float, float] = (1.0, 3.0)
    annealing_end: int | None = None

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
          ValueError: as in `CHT`, for an unknown removal, exponents that are not two positive numbers, or without an
            end of their annealing.
        """
        super().__post_init__()
        if self.removal not in get_args(Removal):
            raise InputError(f"removal={self.removal!r} is not known; use {' or '.join(get_args(Removal))}.")
        if len(self.exponents) != 2 or min(self.exponents) <= 0:
            raise InputError(f"exponents={self.exponents} are not two positive numbers; give the first and the last.")
        if self._annealing_end is None:
            raise InputError("CHTs anneals its exponent to the end of the updates: give end_step or annealing_end.")

    @property
    def _annealing_end(self) -> int | None:
        return self.end_step if self.annealing_end is None else self.annealing_end

    def drop_score(self, kernel: Kernel) -> tf.Tensor:
        """Importance of the weights, before chance."""
        magnitude = tf.abs(kernel.weight)
        if self.removal == "magnitude":
            return magnitude
        matrix = kernel.structure.to_matrix(magnitude)
        sums = [tf.reduce_sum(matrix, axis=axis, keepdims=True) for axis in (0, 1)]
        return kernel.structure.from_matrix(
            tf.math.divide_no_nan(matrix, sums[0]) + tf.math.divide_no_nan(matrix, sums[1]), magnitude.shape
        )

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """Noisy logarithm of the predicted score."""
        return _perturb(self._predict(kernel), seed)

    def exponent(self, step: tf.Tensor) -> tf.Tensor:
        """Returns T at a step, a float32 scalar."""
        (first, last), end = self.exponents, self._annealing_end
        assert end is not None
        return first + (last - first) * tf.minimum(tf.cast(step, tf.float32) / max(end, 1), 1.0)

    def _keep_score(self, kernel: Kernel, context: UpdateContext, index: int) -> tf.Tensor:
        return _perturb(self.drop_score(kernel), context.stateless_seed(-1 - index), self.exponent(context.step))


def _perturb(weights: tf.Tensor, seed: tf.Tensor, exponent: float | tf.Tensor = 1.0) -> tf.Tensor:
    """Adds Gumbel noise to exponent * log(weights): the k highest are k draws without replacement.

    Args:
      weights: not negative; those of 0 come last.
      seed: of the noise.
      exponent: scalar.

    Returns:
      Tensor of the same shape, finite.
    """
    tiny = tf.constant(_ZERO, weights.dtype)
    noise = tf.cast(random_uniform(weights.shape, seed), weights.dtype)
    gumbel = -tf.math.log(-tf.math.log(noise))
    return tf.cast(exponent, weights.dtype) * tf.math.log(tf.maximum(weights, tiny)) + gumbel
