"""Sparse execution in `fit`, `evaluate` and `predict`, and in training loops of the caller's own."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from sparse_lib._keras.stand_ins import remove_attribute, set_attribute
from sparse_lib.execution import Execution
from sparse_lib.optimizer.sparse_optimizer import SparseOptimizer

# The attribute of a wrapped step that holds the step.
_ORIGINAL = "without_execution"


def execute_model_steps(model: keras.Model, execution: Execution) -> None:
    """Lets `fit`, `train_on_batch`, `evaluate` and `predict` of a model execute its layers sparsely.

    The model stays a plain Keras model: what is saved, cloned or exported does not contain it, and a direct call
    multiplies densely. Training steps are sparse where a `SparseOptimizer` with the same masks takes them.

    Args:
      model: a built model; other layers have no such steps.
      execution: of the model.
    """
    for name, scope in _SCOPES.items():
        if hasattr(model, name):
            set_attribute(model, name, _wrap(model, name, scope, execution))


def restore_model_steps(model: keras.Model) -> None:
    """Undoes `execute_model_steps`.

    Args:
      model: of an earlier call, or any other.
    """
    for name in _SCOPES:
        step = getattr(getattr(model, name, None), _ORIGINAL, None)
        if step is not None:
            remove_attribute(model, name)
            if step != getattr(model, name):
                set_attribute(model, name, step)


def _wrap(
    model: keras.Model, name: str, scope: Callable[[keras.Model, Execution], Any], execution: Execution
) -> Callable[..., Any]:
    step = getattr(model, name)
    # A step of an earlier call is replaced, one that the caller set is kept.
    step = getattr(step, _ORIGINAL, step)

    def run(*args: Any, **kwargs: Any) -> Any:
        with scope(model, execution):
            return step(*args, **kwargs)

    setattr(run, _ORIGINAL, step)
    return run


@contextmanager
def _training_scope(model: keras.Model, execution: Execution) -> Iterator[None]:
    optimizer = model.optimizer
    if isinstance(optimizer, SparseOptimizer) and optimizer.masks is execution.masks and not _uses_xla(model):
        with optimizer.execute():
            yield
    else:
        yield


@contextmanager
def _inference_scope(model: keras.Model, execution: Execution) -> Iterator[None]:
    # By the weights, which something else than a SparseOptimizer may have written.
    with contextlib.nullcontext() if _uses_xla(model) else execution.at_weights():
        yield


def _uses_xla(model: keras.Model) -> bool:
    return bool(model.jit_compile)


_SCOPES = {"train_step": _training_scope, "test_step": _inference_scope, "predict_step": _inference_scope}
