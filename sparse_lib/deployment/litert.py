"""LiteRT files of Keras models, and their latency."""

import os
import pathlib
import re
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._keras import tracing
from sparse_lib._utils.atomic import atomic_path
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.tables import text_table


@dataclass(frozen=True)
class Latency:
    """Cost of one inference.

    Attributes:
      size: file size (bytes).
      median: median time of a call (s).
      fastest: shortest time of a call (s).
    """

    size: int
    median: float
    fastest: float


def convert(model: keras.Model, *, sparse: bool = True, batch: int | None = 1) -> bytes:
    """Converts a model to LiteRT.

    Args:
      model: built; a subclassed model must have been called once, and keeps a variable batch size.
      sparse: whether kernels are stored as their nonzero weights. Dense layers then also skip the zeros in products,
        for blocks of four inputs per output or few enough single weights; other kernels are unpacked when the file is
        loaded, unless XNNPACK has sparse kernels for them.
      batch: number of examples per call (count); None keeps it variable, which recurrent layers do not support.

    Returns:
      Content of a `.tflite` file.

    Raises:
      ValueError: if the model is not built or LiteRT lacks one of its operations; names the layers.
    """
    if not model.built:
        raise InputError(f"Model {model.name!r} is not built: call it on a batch once.")
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False, input_signature=_signature(model, batch))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if sparse:
            converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        try:
            return bytes(converter.convert())
        except Exception as error:
            # The converter's error class is not public, and its message has many lines.
            if type(error).__name__ != "ConverterError":
                raise
            raise InputError(_conversion_error(model, str(error))) from error


def export(model: keras.Model, path: str | os.PathLike[str], *, sparse: bool = True, batch: int | None = 1) -> int:
    """Writes a LiteRT file atomically.

    Args:
      model: as for `convert`.
      path: of the file, such as `model.tflite`.
      sparse: as for `convert`.
      batch: as for `convert`.

    Returns:
      The file size (bytes).

    Raises:
      ValueError: as `convert` does.
      FileNotFoundError: if the folder does not exist.
    """
    folder = pathlib.Path(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist, so {pathlib.Path(path).name} cannot be written there: create the folder first."
        )
    content = convert(model, sparse=sparse, batch=batch)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def outputs(content: bytes, x: np.ndarray) -> np.ndarray:
    """Runs a LiteRT model with one input and one output.

    Args:
      content: of a `.tflite` file.
      x: examples, a multiple of the file's batch size, [n, ...].

    Returns:
      Outputs of all examples, [n, ...].

    Raises:
      ValueError: if the model has several inputs or outputs, or examples are left over.
    """
    interpreter = _interpreter(content, threads=1)
    ends = (interpreter.get_input_details(), interpreter.get_output_details())
    if any(len(end) > 1 for end in ends):
        raise InputError("The model has several inputs or outputs: call a tf.lite.Interpreter yourself.")
    (inputs,), (made,) = ends
    if not len(x) or len(x) % inputs["shape"][0]:
        raise InputError(f"{len(x)} examples do not fill batches of {inputs['shape'][0]}: give a multiple of it.")
    results = []
    for batch in x.reshape(-1, *inputs["shape"]):
        interpreter.set_tensor(inputs["index"], batch.astype(inputs["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(made["index"]))
    return np.concatenate(results)


def latency(contents: Mapping[str, bytes], *, runs: int = 50, warmups: int = 5, threads: int = 1) -> dict[str, Latency]:
    """Measures the latency of LiteRT models on random inputs.

    The models take turns, so that other load on the machine affects all of them alike.

    Args:
      contents: of the `.tflite` files, by name.
      runs: measured calls per model (count).
      warmups: calls per model before the measurement (count).
      threads: threads per call (count).

    Returns:
      Latencies by name.

    Raises:
      ValueError: without models or runs.
    """
    if not contents or runs < 1:
        raise InputError(f"There is nothing to measure in {len(contents)} models and {runs} runs: give one of each.")
    interpreters = {name: _prepare(_interpreter(content, threads)) for name, content in contents.items()}
    times: dict[str, list[float]] = {name: [] for name in contents}
    for _ in range(warmups + runs):
        for name, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.invoke()
            times[name].append(time.perf_counter() - start)
    return {
        name: Latency(len(contents[name]), float(np.median(taken[warmups:])), min(taken[warmups:]))
        for name, taken in times.items()
    }


def latency_table(measured: Mapping[str, Latency]) -> str:
    """Formats a table of latencies, with speed-ups over the first.

    Args:
      measured: from `latency`.

    Returns:
      Lines of text.
    """
    first = next(iter(measured.values()))
    rows = [
        (
            name,
            f"{each.size / 1e3:,.0f}",
            f"{1e3 * each.median:.3f}",
            f"{1e3 * each.fastest:.3f}",
            f"{first.median / each.median:.2f}",
        )
        for name, each in measured.items()
    ]
    return text_table([("model", f"{'kB':>9}", "median ms", "fastest ms", "speed-up")], rows)


def _signature(model: keras.Model, batch: int | None) -> list[Any] | None:
    """The input signature of a model; None for a subclassed one, whose first call Keras has recorded."""
    specs = tracing.input_specs(model)
    if specs is None:
        return None
    return [keras.tree.map_structure(lambda x: keras.InputSpec(x.dtype, (batch, *x.shape[1:]), name=x.name), specs)]


def _conversion_error(model: keras.Model, message: str) -> str:
    operations = sorted(set(re.findall(r"'tf\.(\w+)' op", message))) or ["some operation"]
    # A location is the path of the layer's call, with the numbers that Keras appends to repeated names.
    parts = {part for path in re.findall(r'"([^"]+)@__inference', message) for part in path.split("/")}
    called = parts | {re.sub(r"_\d+$", "", part) for part in parts}
    names = [repr(layer.name) for layer in tracing.all_layers(model) if layer.name in called]
    where = f"layer {', '.join(names)}" if names else f"model {model.name!r}"
    return (
        f"LiteRT has nothing for {', '.join(operations)} in {where}: fix the batch size (batch=1) and the lengths of "
        "sequences if they are open, or replace the layer."
    )


def _interpreter(content: bytes, threads: int) -> Any:
    with warnings.catch_warnings():
        # TensorFlow recommends a separate package with the same interpreter; the bundled one reads these files.
        warnings.filterwarnings(
            "ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated", category=UserWarning
        )
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _prepare(interpreter: Any) -> Any:
    """Sets the inputs of an interpreter: random floats, and zeros for integers, which are valid indices."""
    rng = np.random.default_rng(0)
    for each in interpreter.get_input_details():
        numbers = (
            rng.normal(size=each["shape"]) if np.issubdtype(each["dtype"], np.floating) else np.zeros(each["shape"])
        )
        interpreter.set_tensor(each["index"], numbers.astype(each["dtype"]))
    return interpreter
