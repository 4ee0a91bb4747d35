"""A Keras optimizer that answers for the optimizer inside it."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.optimizers import drop_settings
from sparse_lib._utils import distribute
from sparse_lib._utils.errors import InputError
from sparse_lib.masks import Masks
from sparse_lib.updaters import Updater

# What Keras' constructor sets and the wrapper keeps; every other setting belongs to the inner optimizer.
_OWN = ("name", "built")
_FIXED = ("inner", "masks", "updater")
# Where keras.callbacks.SwapEMAWeights finds the averages.
_AVERAGES = "_model_variables_moving_average"
_ACCUMULATION = (
    "Keras's gradient_accumulation_steps fails under tf.distribute; leave it out, and use growth_gradient=k to "
    "average the growth gradient over k batches."
)
_LOSS_SCALING = (
    "Loss scaling (float16) belongs around the SparseOptimizer, where model.compile puts it under "
    "mixed_float16, not into it: leave it out of the inner optimizer, or use float32 or mixed_bfloat16."
)


class DelegatingOptimizer(keras.optimizers.Optimizer):
    """Reads and sets all settings on the inner optimizer: Keras' public ones and those of its class, such as momentum.

    Attributes:
      inner: the optimizer with the settings.
    """

    def __init__(self, inner: keras.optimizers.Optimizer, name: str) -> None:
        """Wraps an optimizer.

        Args:
          inner: a Keras optimizer.
          name: name of this optimizer.
        """
        super().__init__(learning_rate=0.0, name=name)
        # Without fields here, reading and setting reach the inner optimizer.
        drop_settings(self, keep=_OWN)
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        """Reads what this class lacks from the inner optimizer."""
        inner = self.__dict__.get("inner")
        if inner is None or (name.startswith("_") and name != _AVERAGES):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets what only the inner optimizer has there."""
        inner = self.__dict__.get("inner")
        is_own = name.startswith("_") or name in self.__dict__ or hasattr(type(self), name)
        if name in _FIXED and name in self.__dict__ and value is not self.__dict__[name]:
            raise InputError(
                f"The {name} of a SparseOptimizer cannot be replaced, since slots and state belong to it: make a new "
                "SparseOptimizer with a new inner optimizer, and compile with that."
            )
        if inner is None or is_own or not hasattr(inner, name):
            super().__setattr__(name, value)
            return
        if name == "gradient_accumulation_steps" and value:
            raise InputError(_ACCUMULATION)
        if name == "use_ema" and self.built and bool(value) != inner.use_ema:
            raise InputError("use_ema cannot change once the optimizer is built: pass it to the inner optimizer.")
        setattr(inner, name, value)

    @property
    def iterations(self) -> keras.Variable:
        """Number of steps taken, mask updates included (step)."""
        return self.inner.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner.learning_rate = value

    @property
    def loss_scale_factor(self) -> float:
        """1: losses are not scaled here."""
        return 1.0

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: float | None) -> None:
        # Keras' constructor sets it, and a LossScaleOptimizer sets it to None in the optimizer that it wraps, unless it
        # is None already.
        if value is not None and value != 1.0:
            raise InputError(_LOSS_SCALING)
        if hasattr(self, "inner") and self._distribution_strategy.num_replicas_in_sync > 1:
            raise InputError(
                "Loss scaling (float16) looks at the gradients of the first replica alone, so that an overflow of "
                "another one would reach the weights: use mixed_bfloat16, or pass auto_scale_loss=False to compile."
            )

    def exclude_from_weight_decay(
        self, var_list: Sequence[keras.Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Excludes variables from the inner optimizer's weight decay; call it before `build`.

        Args:
          var_list: the variables.
          var_names: parts of the names of further variables.
        """
        self.inner.exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets `variables`.

        Args:
          weights: one array per variable.

        Raises:
          ValueError: if the optimizer is not built, or numbers or shapes differ.
        """
        if not self.built:
            raise InputError("Call optimizer.build(model.trainable_variables) before optimizer.set_weights.")
        shapes = [tuple(variable.shape) for variable in self.variables]
        if shapes != [tuple(tf.convert_to_tensor(weight).shape) for weight in weights]:
            raise InputError(f"Got other weights than the {len(shapes)} of optimizer.variables: give arrays like them.")
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Refuses to change one variable past its mask.

        Raises:
          ValueError: always.
        """
        raise InputError("A SparseOptimizer changes variables with their masks: call optimizer.apply.")


def check_masks_and_updater(masks: Any, updater: Any) -> None:
    """Checks the kinds of two arguments of a SparseOptimizer.

    Args:
      masks: of a user.
      updater: of a user, or None.

    Raises:
      ValueError: if they are something else.
    """
    if not isinstance(masks, Masks):
        raise InputError(f"The second argument is the masks from sparsify(model), got {masks!r}.")
    if isinstance(updater, type):
        raise InputError(f"The updater is the class {updater.__name__}: give an instance, {updater.__name__}(...).")
    if updater is not None and not isinstance(updater, Updater):
        raise InputError(f"The updater is {updater!r}: give one of sparse_lib's, such as RigL(end_step=1000), or None.")


def check_inner(inner: keras.optimizers.Optimizer) -> None:
    """Checks that an optimizer can be wrapped.

    Args:
      inner: a Keras optimizer.

    Raises:
      ValueError: for gradient accumulation, loss scaling, a wrapper, or an optimizer that is already built.
    """
    if not isinstance(inner, keras.optimizers.Optimizer):
        what = f"the class {inner.__name__}" if isinstance(inner, type) else repr(inner)
        raise InputError(f"The inner optimizer is {what}: give an instance, such as keras.optimizers.Adam(1e-3).")
    if inner.gradient_accumulation_steps:
        raise InputError(_ACCUMULATION)
    if isinstance(inner, (DelegatingOptimizer, getattr(keras.optimizers, "MultiOptimizer", ()))):
        raise InputError(f"The slots of a {type(inner).__name__} cannot be masked; give a plain Keras optimizer.")
    if isinstance(inner, keras.optimizers.LossScaleOptimizer) or inner.loss_scale_factor:
        raise InputError(_LOSS_SCALING)
    if inner.built:
        raise InputError("The inner optimizer is already built; pass a new one, so that its slots can be masked.")


def check_kernels(masks: Masks, variables: Sequence[keras.Variable], strategies: Sequence[Any]) -> None:
    """Checks that masked kernels are trained, and under the strategy of their optimizers.

    Args:
      masks: of the kernels.
      variables: the trainable variables.
      strategies: under which the optimizers were made.

    Raises:
      ValueError: if a kernel is not among the variables, or lives under another strategy.
    """
    trainable = {id(v) for v in variables}
    missing = [n for n, k in zip(masks.names, masks.kernels, strict=True) if id(k) not in trainable]
    if missing:
        raise InputError(
            f"The masked kernels {', '.join(missing)} are not among the trainable variables; build the masks "
            "from the model that is trained, and leave frozen layers out of them."
        )
    owners = [distribute.owner(kernel.value) for kernel in masks.kernels]
    if any(owner is not None and owner is not strategy for owner in owners for strategy in strategies):
        raise InputError(
            "The model lives under another tf.distribute strategy than its optimizer; create the model and both "
            "optimizers inside the same `with strategy.scope():`."
        )
