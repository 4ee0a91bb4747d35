"""SuPar: the learning rate of a sparse kernel by its density."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from sparse_lib import distributions
from sparse_lib._utils.errors import InputError
from sparse_lib.optimizer.sign_in import SignIn


@dataclasses.dataclass(frozen=True)
class SuPar:
    """Sparse maximal update parameterization: a learning rate that was tuned at one density serves every density.

    rate of a kernel = rate / (m_d m_rho),  m_rho = density of the kernel / base_density,  m_d = its width / base width

    A unit with fewer inputs needs larger weights to pass on the same signal, and larger updates to change it by the
    same amount. Its initial variance, sigma^2 / (m_d m_rho), is that of `initialize` with the scheme `layer_scaled`.
    Both together keep outputs, gradients and changes of outputs independent of density and width (Dey et al. 2024,
    arXiv 2405.15743, table 1, for Adam); docs/semantics.md derives the rule for SGD.

    The density is that of the mask at the step, so that rates rise as a kernel is pruned. It is the rate of the update
    that is multiplied, after momentum or Adam's normalisation; decoupled weight decay keeps the unscaled rate.

    Attributes:
      base_density: density at which the learning rate was tuned (fraction); 1 is a dense network.
      widths: m_d by name or pattern of a kernel or a layer, for hidden layers; 1 for all others.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> import keras
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((400,)), keras.layers.Dense(300, "relu")])
      >>> masks = sparse_lib.sparsify(model, 0.9)
      >>> sparse_lib.initialize(model, masks, "layer_scaled")
      >>> optimizer = sparse_lib.SparseOptimizer(keras.optimizers.Adam(1e-3), masks, rate_scaling=sparse_lib.SuPar())
    """

    base_density: float = 1.0
    widths: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if not 0 < self.base_density <= 1:
            raise InputError(f"SuPar has base_density={self.base_density}; give a fraction above 0 and at most 1.")
        wrong = {name: width for name, width in self.widths.items() if not width > 0}
        if wrong:
            raise InputError(f"SuPar has widths={wrong}; give positive multiples of the base width.")

    def multipliers(self, names: Sequence[str], inner: keras.optimizers.Optimizer) -> list[float]:
        """Returns base_density / m_d of every kernel, its factor at density 1.

        Args:
          names: of the kernels.
          inner: the optimizer whose rate is scaled.

        Returns:
          One number per kernel.

        Raises:
          ValueError: for a width of an unknown kernel, or under SGD, whose rate for hidden layers does not depend on
            width (Yang et al. 2022, arXiv 2203.03466, table 3).
        """
        if self.widths and isinstance(inner, (keras.optimizers.SGD, SignIn)):
            raise InputError("SGD's learning rate of hidden layers does not depend on width: leave out SuPar's widths.")
        widths = distributions.custom_by_kernel(names, self.widths)
        unknown = [name for name in widths if name not in names]
        if unknown:
            raise InputError(f"SuPar has widths of {', '.join(unknown)}; the sparse kernels are {', '.join(names)}.")
        return [self.base_density / widths.get(name, 1.0) for name in names]


def rate_factor(multiplier: float, active: tf.Tensor, size: int) -> tf.Tensor:
    """Returns multiplier / density, a float32 scalar.

    Args:
      multiplier: from `SuPar.multipliers`.
      active: number of active weights, integer scalar (count); 0 counts as 1.
      size: number of weights (count).
    """
    return multiplier * size / tf.cast(tf.maximum(active, 1), tf.float32)
