"""Access to the private state of Keras optimizers."""

import keras
import tensorflow as tf


def skip_gradient_sum(optimizer: keras.optimizers.Optimizer) -> None:
    """Stops an optimizer from summing gradients over replicas, for gradients that have been summed already.

    Args:
      optimizer: any Keras optimizer; it is changed in place.
    """
    optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars


def creation_strategy(optimizer: keras.optimizers.Optimizer) -> tf.distribute.Strategy:
    """The strategy under which an optimizer was created, and whose scope its variables belong to.

    Args:
      optimizer: any Keras optimizer.

    Returns:
      The strategy; TensorFlow's default strategy outside any scope.
    """
    return optimizer._distribution_strategy


def batch_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """The variable that counts batches; `optimizer.iterations` counts updates where gradients are accumulated.

    Args:
      optimizer: any Keras optimizer.

    Returns:
      A scalar integer variable.
    """
    return optimizer._iterations
