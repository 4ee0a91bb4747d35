"""Compiled graphs that are kept with a model, for as long as the model computes the same."""

from collections.abc import Callable
from typing import Any, TypeVar

import keras

from sparse_lib._keras.tracing import all_layers

# Two leading underscores: Keras leaves these attributes out when it saves a model.
_ATTRIBUTE = "__sparse_lib_graphs"
# Graphs per model (count); a loss that is made anew for every call would fill the memory otherwise.
_MOST_GRAPHS = 8

# Set by calls, fits and saves; no output depends on them.
_IRRELEVANT = frozenset(
    {
        *("_called", "_jit_compile", "_eval_epoch_iterator", "train_function", "test_function", "predict_function"),
        *("stop_training", "stop_evaluating", "stop_predicting"),
        # Wrapped by `fitting.warn_unless`.
        *("compile", "fit", "train_on_batch", "__sparse_lib_hooks"),
        # Wrapped by `optimizer.execute_model_steps`.
        *("train_step", "test_step", "predict_step"),
    }
)

T = TypeVar("T")


def keep(model: keras.Model, kind: str, loss: object, make: Callable[[], T]) -> T:
    """Returns what an earlier call made for the same model and loss, or makes it.

    A change of the model's layers or settings (`trainable`, dropout rates, activations, LoRA) makes it anew.

    Args:
      model: that the graph is of.
      kind: of the graph.
      loss: that the graph contains; compared by identity.
      make: makes the object with the graph.

    Returns:
      The object.
    """
    graphs: dict[tuple[str, int], tuple[object, object, T]] = model.__dict__.setdefault(_ATTRIBUTE, {})
    key, state = (kind, id(loss)), _state(model)
    _, old, made = graphs.pop(key, (None, None, None))
    if made is None or old != state:
        made = make()
    # The loss is kept too, lest another gets its id.
    graphs[key] = (loss, state, made)
    while len(graphs) > _MOST_GRAPHS:
        del graphs[next(iter(graphs))]
    return made


def forget(model: keras.Layer) -> None:
    """Drops the graphs that are kept with a model.

    Args:
      model: of earlier calls, or any other.
    """
    model.__dict__.pop(_ATTRIBUTE, None)


def _state(model: keras.Model) -> list[tuple[str, Any]]:
    """Everything plain about a model that its graph may depend on."""
    found: list[tuple[str, Any]] = [("variables", [id(v) for v in model.trainable_variables])]
    for layer in (model, *all_layers(model)):
        found.append(("layer", id(layer)))
        for name, value in vars(layer).items():
            if name in _IRRELEVANT:
                continue
            if isinstance(value, bool | int | float | str | None):
                found.append((name, value))
            elif callable(value) and not isinstance(value, keras.Layer):
                found.append((name, id(value)))
        found.append(("dtype", layer.dtype_policy.name))
    return found
