"""Access to the private state of Keras optimizers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

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


def unwrap(optimizer: Any) -> Any:
    """The optimizer inside a LossScaleOptimizer, which Keras puts around it under mixed_float16.

    Args:
      optimizer: any optimizer, or None.

    Returns:
      The inner optimizer; anything else as it is.
    """
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def restore_gradient_sum(optimizer: keras.optimizers.Optimizer) -> None:
    """Undoes `skip_gradient_sum`.

    Args:
      optimizer: any Keras optimizer; it is changed in place.
    """
    optimizer.__dict__.pop("_all_reduce_sum_gradients", None)


def state_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables of a built optimizer that training moves: slots and scalars such as Nadam's product, no counter.

    Args:
      optimizer: any Keras optimizer.

    Returns:
      The variables, without the iteration count and the learning rate.
    """
    fixed = {id(optimizer._iterations), id(getattr(optimizer, "_learning_rate", None))}
    # Nadam does not list its product among its variables.
    scalars = [value for value in vars(optimizer).values() if isinstance(value, keras.Variable)]
    found = {id(variable): variable for variable in [*optimizer.variables, *scalars]}
    return [variable for key, variable in found.items() if key not in fixed]


def batch_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """The variable that counts batches; `optimizer.iterations` counts updates where gradients are accumulated.

    Args:
      optimizer: any Keras optimizer.

    Returns:
      A scalar integer variable.
    """
    return optimizer._iterations


def register_variables(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Marks an optimizer as built for variables, as Keras' `build` does, without averages or accumulators.

    Args:
      optimizer: any Keras optimizer; it is changed in place.
      variables: the trainable variables.
    """
    # Past Keras' __setattr__, which would track the list.
    optimizer.__dict__["_trainable_variables"] = list(variables)
    optimizer.__dict__["_trainable_variables_indices"] = {optimizer._var_key(v): i for i, v in enumerate(variables)}
    optimizer.built = True


def drop_settings(optimizer: keras.optimizers.Optimizer, keep: Sequence[str]) -> None:
    """Deletes the public fields of an optimizer, such as `weight_decay`.

    Args:
      optimizer: any Keras optimizer; it is changed in place.
      keep: names of fields that stay.
    """
    for name in [name for name in optimizer.__dict__ if not name.startswith("_") and name not in keep]:
        del optimizer.__dict__[name]


@contextmanager
def restrict_averages(optimizer: keras.optimizers.Optimizer, positions: Sequence[int]) -> Iterator[None]:
    """Makes an optimizer average and overwrite some of its variables alone inside the context.

    Args:
      optimizer: a built Keras optimizer with `use_ema`; without it, nothing happens.
      positions: of the variables, among those of `build`, ascending.

    Yields:
      Nothing.
    """
    names = ("_trainable_variables", "_model_variables_moving_average") if optimizer.use_ema else ()
    before = {name: optimizer.__dict__[name] for name in names}
    optimizer.__dict__.update({name: [values[i] for i in positions] for name, values in before.items()})
    try:
        yield
    finally:
        optimizer.__dict__.update(before)


def variable_index(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """The position of a variable among those of `build`, in `update_step` too, which gets TensorFlow's variables.

    Args:
      optimizer: a built Keras optimizer.
      variable: a Keras variable, or the TensorFlow variable that stands for it.

    Returns:
      The index.
    """
    return optimizer._get_variable_index(variable)


@contextmanager
def scale_rates(optimizer: keras.optimizers.Optimizer, factors: Mapping[int, tf.Tensor]) -> Iterator[None]:
    """Multiplies the learning rate of single variables inside the context; decoupled weight decay keeps its own.

    Every Keras optimizer gets the learning rate of a variable as an argument of `update_step`.

    Args:
      optimizer: a built Keras optimizer.
      factors: positive scalar by position of the variable among those of `build`.

    Yields:
      Nothing.
    """
    if not factors:
        yield
        return
    step = optimizer.update_step

    def scaled_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        factor = factors.get(variable_index(optimizer, variable))
        step(gradient, variable, learning_rate if factor is None else learning_rate * factor)

    # Past Keras' __setattr__, which would track the function.
    optimizer.__dict__["update_step"] = scaled_step
    try:
        yield
    finally:
        del optimizer.__dict__["update_step"]
