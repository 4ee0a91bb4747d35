"""Comparison of LiteRT files with the models that they were made from, on a random input."""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._keras import tracing
from sparse_lib._utils.errors import InputError

# Largest difference of two computations of one function, relative to the largest output: sums in another order, and
# products in half precision.
FLOAT_TOLERANCE = 1e-3
HALF_TOLERANCE = 5e-2
# Root mean square of the differences by which int8 files differ, relative to that of the outputs: 0.02 is usual.
INT8_TOLERANCE = 0.5
# Size of an axis that the model leaves open, such as the length of a sequence.
OPEN_SIZE = 32
# Batches of typical inputs that an int8 file is compared on (count).
MOST_BATCHES = 100

Arrays = Mapping[str, np.ndarray]


@contextlib.contextmanager
def accept_bundled_interpreter() -> Iterator[None]:
    """Hides TensorFlow's advice to use a separate package with the same interpreter; the bundled one reads these files.

    Yields:
      Nothing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated", category=UserWarning
        )
        yield


def interpreter(content: bytes, threads: int = 1) -> Any:
    """Creates TensorFlow's interpreter of a LiteRT file; its tensors are not allocated.

    Args:
      content: of a `.tflite` file.
      threads: per call (count).

    Returns:
      A `tf.lite.Interpreter`.
    """
    with accept_bundled_interpreter():
        return tf.lite.Interpreter(model_content=content, num_threads=threads)


class Reference:
    """A model's outputs for given inputs, as a LiteRT file has to reproduce them."""

    def __init__(self, model: keras.Model, folder: str | pathlib.Path, representative: Sequence[Arrays] | None) -> None:
        """Runs the model.

        Args:
          model: the model.
          folder: its export as a SavedModel, which names inputs and outputs as the file does.
          representative: inputs by name, a list of batches; None takes one random batch.
        """
        self._name = model.name
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures["serving_default"]
        random = [_random_inputs(model, signature.structured_input_signature[1])]
        self._batches = representative[:MOST_BATCHES] if representative else random
        self._expected = [_call(signature, batch) for batch in self._batches]
        # A model that draws random numbers at inference has no outputs to compare with.
        again = _call(signature, self._batches[0])
        self._is_random = _largest_difference(self._expected[:1], [again]) > FLOAT_TOLERANCE
        halves = {"float16", "bfloat16"}
        is_half = any(layer.compute_dtype in halves for layer in (model, *tracing.all_layers(model)))
        self._tolerance = HALF_TOLERANCE if is_half else FLOAT_TOLERANCE

    def reproduces(self, content: bytes) -> bool:
        """Whether a file computes what the model does, up to rounding.

        Args:
          content: of a `.tflite` file.
        """
        return self._is_random or _largest_difference(self._expected, self._run(content)) <= self._tolerance

    def check(self, content: bytes, is_int8: bool) -> bytes:
        """Returns a file if it computes what the model does.

        Args:
          content: of a `.tflite` file.
          is_int8: whether it computes in int8, which is less exact.

        Returns:
          The content.

        Raises:
          InputError: if its outputs differ.
        """
        if self._is_random:
            warnings.warn(
                f"Model {self._name!r} draws random numbers at inference, so its file could not be compared with it.",
                stacklevel=4,
            )
            return content
        found = self._run(content)
        error = (_relative_rms if is_int8 else _largest_difference)(self._expected, found)
        if not error <= (INT8_TOLERANCE if is_int8 else self._tolerance):
            advice = (
                "give more representative examples, or leave quantize out" if is_int8 else "report it, with the model"
            )
            raise InputError(
                f"The LiteRT file of model {self._name!r} computes something else, {error:.0%} off: {advice}."
            )
        return content

    def _run(self, content: bytes) -> Sequence[Arrays]:
        machine = interpreter(content)
        runner = machine.get_signature_runner()
        return [runner(**batch) for batch in self._batches]


def _call(signature: Any, batch: Arrays) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in signature(**{k: tf.constant(v) for k, v in batch.items()}).items()}


def _random_inputs(model: keras.Model, specs: Mapping[str, tf.TensorSpec]) -> dict[str, np.ndarray]:
    """Random inputs: normal floats, and integers that every embedding of the model has a row for."""
    rng = np.random.default_rng(0)
    embeddings = [layer for layer in tracing.all_layers(model) if isinstance(layer, keras.layers.Embedding)]
    rows = min((layer.input_dim for layer in embeddings), default=2)
    inputs = {}
    for name, spec in specs.items():
        batch, *sizes = spec.shape.as_list()
        shape = [batch or 1, *(size or OPEN_SIZE for size in sizes)]
        draws = rng.normal(size=shape) if spec.dtype.is_floating else rng.integers(0, rows, shape)
        inputs[name] = draws.astype(spec.dtype.as_numpy_dtype)
    return inputs


def _largest_difference(expected: Sequence[Arrays], found: Sequence[Arrays]) -> float:
    """The largest difference of any output, relative to the largest entry of that output; inf for NaN in one."""
    worst = 0.0
    for name in expected[0]:
        ours, theirs = (np.concatenate([np.ravel(each[name]) for each in side]) for side in (expected, found))
        ours, theirs = (side.astype(np.float64) for side in (ours, theirs))
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        apart = np.where(same, 0.0, np.abs(ours - theirs))
        finite = np.abs(ours[np.isfinite(ours)])
        scale = max(finite.max(initial=0.0), np.finfo(np.float32).tiny)
        worst = max(worst, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0) / scale))
    return worst


def _relative_rms(expected: Sequence[Arrays], found: Sequence[Arrays]) -> float:
    """The largest root mean square of the differences of any output, relative to that of the output."""
    worst = 0.0
    for name in expected[0]:
        ours, theirs = (np.concatenate([np.ravel(each[name]) for each in side]) for side in (expected, found))
        scale = max(np.sqrt(np.mean(np.square(ours, dtype=np.float64))), np.finfo(np.float32).tiny)
        difference = ours.astype(np.float64) - theirs.astype(np.float64)
        worst = max(worst, float(np.sqrt(np.mean(np.square(difference))) / scale))
    return worst
