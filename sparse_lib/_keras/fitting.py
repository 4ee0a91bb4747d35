"""Whether a model has been trained, and what it is trained with next."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from sparse_lib._keras.tracing import all_layers

# Variables that start at zero, by the attribute with their initializer.
_START_AT_ZERO = {"bias_initializer": "bias", "beta_initializer": "beta", "moving_mean_initializer": "moving_mean"}
# What trains a model. `compile` comes first: its warning is nearer to the mistake.
_TRAINS = ("compile", "fit", "train_on_batch")
# Two leading underscores: Keras leaves these attributes out when it saves a model.
_HOOKS = "__sparse_lib_hooks"


def looks_trained(model: keras.Layer) -> bool:
    """Whether an optimizer has taken a step, or a bias or an average that starts at zero is not zero.

    Args:
      model: a built model.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and int(optimizer.iterations.numpy()) > 0:
        return True
    for layer in (model, *all_layers(model)):
        # A recurrent layer may start with biases of its forget gates at one.
        if getattr(layer, "unit_forget_bias", False):
            continue
        for initializer, name in _START_AT_ZERO.items():
            variable = getattr(layer, name, None)
            starts_at_zero = isinstance(getattr(layer, initializer, None), keras.initializers.Zeros)
            if starts_at_zero and isinstance(variable, keras.Variable) and np.any(variable.numpy()):
                return True
    return False


def warn_unless(model: keras.Layer, is_fit: Callable[[Any], bool], message: str) -> None:
    """Warns once when the model is compiled or trained with an optimizer that does not fit.

    Methods of this one model are wrapped, past Keras, which would track them; `forget` unwraps them.

    Args:
      model: to watch; anything but a `keras.Model` has nothing to train it.
      is_fit: whether an optimizer fits.
      message: the warning.
    """
    if not isinstance(model, keras.Model) or _HOOKS in model.__dict__:
        return
    model.__dict__[_HOOKS] = True

    def check(optimizer: Any) -> None:
        if optimizer is not None and model.__dict__.get(_HOOKS) and not is_fit(optimizer):
            model.__dict__[_HOOKS] = False
            warnings.warn(message, stacklevel=3)

    def wrap(name: str) -> Callable[..., Any]:
        original = getattr(model, name)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "compile":
                check(model.optimizer)
            # Without an optimizer, a model is often compiled to be evaluated alone.
            elif args or "optimizer" in kwargs:
                check(args[0] if args else kwargs["optimizer"])
            return original(*args, **kwargs)

        return call

    for name in _TRAINS:
        model.__dict__[name] = wrap(name)


def compile_again(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Compiles a model with another optimizer and all else as it was.

    Args:
      model: a compiled model.
      optimizer: the new one.
    """
    model.compile(**{**model._compile_config.config, "optimizer": optimizer})


def forget(model: keras.Layer) -> None:
    """Undoes `warn_unless`.

    Args:
      model: of an earlier call, or any other.
    """
    if model.__dict__.pop(_HOOKS, None) is not None:
        for name in _TRAINS:
            del model.__dict__[name]
