"""LiteRT files of Keras models, and how long they take."""

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
    """What one inference costs.

    Attributes:
      size: of the file (bytes).
      median: time of one call (s).
      fastest: time of the fastest call (s).
    """

    size: int
    median: float
    fastest: float


def convert(model: keras.Model, *, sparse: bool = True, batch: int | None = 1) -> bytes:
    """Makes a LiteRT model.

    Args:
      model: built; subclassed ones must have been called once, and keep the batch size open.
      sparse: whether kernels are stored as their non-zero weights. Blocks of four inputs of an output, or few enough
        single weights, are then left out of the products of dense layers, too; others are unpacked when the file is
        loaded, unless XNNPACK has kernels for them.
      batch: number of examples in one call (count); None leaves it open, which recurrent layers cannot.

    Returns:
      The contents of a `.tflite` file.

    Raises:
      ValueError: if the model is not built or LiteRT has no operations for it; names the layers.
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
            # The converter's error has no public class, and many lines.
            if type(error).__name__ != "ConverterError":
                raise
            raise InputError(_refusal(model, str(error))) from error


def export(model: keras.Model, path: str | os.PathLike[str], *, sparse: bool = True, batch: int | None = 1) -> int:
    """Writes a LiteRT file, whole or not at all.

    Args:
      model: as `convert` takes it.
      path: of the file, such as `model.tflite`.
      sparse: see `convert`.
      batch: see `convert`.

    Returns:
      The size of the file (bytes).

    Raises:
      ValueError: as `convert` does.
      FileNotFoundError: if there is no such folder.
    """
    folder = pathlib.Path(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder to write {pathlib.Path(path).name} to: make it first.")
    content = convert(model, sparse=sparse, batch=batch)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def outputs(content: bytes, x: np.ndarray) -> np.ndarray:
    """Outputs of a LiteRT model of one input and one output.

    Args:
      content: of the file.
      x: examples; a multiple of the file's batch size.

    Returns:
      What the model makes of each.

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
    """Measures LiteRT models against each other.

    The models take turns, so that what else the machine does hits all of them alike.

    Args:
      contents: of the files, by name.
      runs: calls of each that count (count).
      warmups: calls of each before them (count).
      threads: that one call may use (count).

    Returns:
      What a call of each costs, on random numbers as inputs.

    Raises:
      ValueError: if nothing is to be measured.
    """
    if not contents or runs < 1:
        raise InputError(f"There is nothing to measure in {len(contents)} models and {runs} runs: give one of each.")
    interpreters = {name: _ready(_interpreter(content, threads)) for name, content in contents.items()}
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
    """A table of measured latencies, each against the first.

    Args:
      measured: from `latency`.

    Returns:
      Its lines.
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
    """The input signature of a model; None for a subclassed one, which Keras knows from its first call."""
    specs = tracing.input_specs(model)
    if specs is None:
        return None
    return [keras.tree.map_structure(lambda x: keras.InputSpec(x.dtype, (batch, *x.shape[1:]), name=x.name), specs)]


def _refusal(model: keras.Model, message: str) -> str:
    operations = sorted(set(re.findall(r"'tf\.(\w+)' op", message))) or ["some operation"]
    # A location is the path of the layer's call, where Keras has numbered the names.
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
        # TensorFlow points to a package of its own for the same interpreter; what it brings reads these files.
        warnings.filterwarnings(
            "ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated", category=UserWarning
        )
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _ready(interpreter: Any) -> Any:
    """Gives an interpreter its inputs: random numbers, or zeros where those might be no valid index."""
    rng = np.random.default_rng(0)
    for each in interpreter.get_input_details():
        numbers = (
            rng.normal(size=each["shape"]) if np.issubdtype(each["dtype"], np.floating) else np.zeros(each["shape"])
        )
        interpreter.set_tensor(each["index"], numbers.astype(each["dtype"]))
    return interpreter
