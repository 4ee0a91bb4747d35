"""Why a step without a mask update needs more than the weights that train."""

import keras

from sparse_lib.optimizer.growth import GrowthSource
from sparse_lib.optimizer.sign_in import SignIn
from sparse_lib.updaters import TopKAST, Updater

# Keras' optimizers that treat every weight by itself, but for the norm of a whole tensor, to which zeros add nothing.
_ELEMENTWISE = frozenset(
    {"SGD", "Adam", "AdamW", "Nadam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Lion", "Ftrl", "Lamb"}
)


def find_dense_need(updater: Updater, inner: keras.optimizers.Optimizer, growth: GrowthSource) -> str:
    """Says why steps need more than the weights that train and their gradients, if they do.

    Args:
      updater: the method.
      inner: a Keras optimizer.
      growth: where the gradients that score growth come from.

    Returns:
      A reason; empty where these weights suffice.
    """
    if updater.trains_off_mask and not _trains_backward_set(updater):
        return f"{updater.label} uses gradients of inactive weights at every step"
    if growth.batches > 1:
        return "growth averages the dense gradients of several steps"
    return "" if _is_elementwise(inner) else f"{type(inner).__name__} is not an elementwise optimizer"


def _trains_backward_set(updater: Updater) -> bool:
    kind = type(updater)
    same = (kind.training_gradient, kind.accumulate) == (TopKAST.training_gradient, TopKAST.accumulate)
    return isinstance(updater, TopKAST) and same


def _is_elementwise(inner: keras.optimizers.Optimizer) -> bool:
    kind = type(inner)
    return kind is SignIn or (kind.__name__ in _ELEMENTWISE and kind is getattr(keras.optimizers, kind.__name__))
