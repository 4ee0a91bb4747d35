"""LiteRT files of Keras models, and their latency."""

import os
import pathlib
import re
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._keras import tracing
from sparse_lib._utils.atomic import atomic_path
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.tables import text_table
from sparse_lib.deployment.sparse_storage import store_cut_blocks_dense
from sparse_lib.deployment.verification import Arrays, Reference, accept_bundled_interpreter, interpreter

Quantize: TypeAlias = Literal["int8"]


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


def convert(
    model: keras.Model,
    *,
    sparse: bool = True,
    batch: int | None = 1,
    quantize: Quantize | None = None,
    representative: Any = None,
) -> bytes:
    """Converts a model to LiteRT, and compares the file with the model on a random input.

    Args:
      model: built; a subclassed model must have been called once, and keeps a variable batch size.
      sparse: whether kernels are stored as their nonzero weights. Dense layers then also skip the zeros in products,
        for blocks of four inputs per output (16 in int8) or few enough single weights; other kernels are unpacked when
        the file is loaded, unless XNNPACK has sparse kernels for them. Kernels of dense layers with another number of
        inputs than a multiple of the block that the converter chose stay dense.
      batch: number of examples per call (count); None keeps it variable, which recurrent layers do not support.
      quantize: `int8` stores and multiplies weights and activations in 8 bits; inputs and outputs stay floats. None
        keeps float32.
      representative: inputs without targets, about 100 typical ones, from which int8 takes the ranges of activations:
        an array, or a structure of arrays as the model takes it, [n, ...].

    Returns:
      Content of a `.tflite` file.

    Raises:
      ValueError: if the model is not built, LiteRT lacks one of its operations (names the layers), `quantize` and
        `representative` do not come together, or the file computes something else than the model.

    Warns:
      UserWarning: if the sparse file computes something else, and the kernels are stored dense; or if the outputs of
        the model are random, so that they cannot be compared.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> from sparse_lib import deployment
      >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(200)])
      >>> masks = sparse_lib.sparsify(model, 0.9)
      >>> small, dense = deployment.convert(model), deployment.convert(model, sparse=False)
      >>> len(small) < len(dense) / 2
      True
      >>> typical = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
      >>> len(deployment.convert(model, quantize="int8", representative=typical)) < len(dense) / 2
      True
    """
    if not model.built:
        raise InputError(f"Model {model.name!r} is not built: call it on a batch once.")
    if quantize not in (None, "int8"):
        raise InputError(f"quantize={quantize!r} is not known: use 'int8', or None for float32.")
    if (quantize is None) != (representative is None):
        raise InputError("quantize='int8' needs representative= with typical inputs, and nothing else does.")
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False, input_signature=_signature(model, batch))
        typical = None if representative is None else _split_examples(model, representative, batch)
        reference = Reference(model, folder, typical)

        def run(sparse: bool) -> bytes:
            return _run_converter(model, folder, sparse, typical)

        if sparse:
            content = store_cut_blocks_dense(run(True), lambda: run(False))
            if quantize is None and not reference.reproduces(content):
                warnings.warn(
                    f"The sparse LiteRT file of model {model.name!r} computes something else than the model: all "
                    "kernels are stored dense.",
                    stacklevel=2,
                )
                content = run(False)
        else:
            content = run(False)
        return reference.check(content, is_int8=quantize is not None)


def _run_converter(model: keras.Model, folder: str, sparse: bool, typical: list[Arrays] | None) -> bytes:
    """Runs TensorFlow's converter on an exported model."""
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if typical is not None:
        converter.optimizations.add(tf.lite.Optimize.DEFAULT)
        converter.representative_dataset = lambda: iter(typical)
    if sparse:
        converter.optimizations.add(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    try:
        with accept_bundled_interpreter():
            return bytes(converter.convert())
    except Exception as error:
        # The converter's error class is not public, and its message has many lines.
        if type(error).__name__ != "ConverterError":
            raise
        raise InputError(_conversion_error(model, str(error))) from error


def _split_examples(model: keras.Model, examples: Any, batch: int | None) -> list[Arrays]:
    """Splits typical inputs into batches of the size of the file, by the names of the inputs."""
    specs = tracing.input_specs(model)
    arrays = [np.asarray(each) for each in keras.tree.flatten(examples)]
    names = ["args_0"] if specs is None else [spec.name for spec in keras.tree.flatten(specs)]
    size = batch or 1
    if len(arrays) != len(names) or len({len(array) for array in arrays}) != 1 or len(arrays[0]) < size:
        raise InputError(
            f"The representative inputs are {len(arrays)} arrays of {', '.join(str(len(a)) for a in arrays)} examples: "
            f"give {len(names)} for model {model.name!r}, of one length of at least {size}."
        )
    dtypes = ["float32"] if specs is None else [spec.dtype for spec in keras.tree.flatten(specs)]
    typed = {name: array.astype(dtype) for name, array, dtype in zip(names, arrays, dtypes, strict=True)}
    starts = range(0, len(arrays[0]) - size + 1, size)
    return [{name: array[start : start + size] for name, array in typed.items()} for start in starts]


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    sparse: bool = True,
    batch: int | None = 1,
    quantize: Quantize | None = None,
    representative: Any = None,
) -> int:
    """Writes a LiteRT file atomically, after comparing it with the model.

    Args:
      model: as for `convert`.
      path: of the file, such as `model.tflite`.
      sparse: as for `convert`.
      batch: as for `convert`.
      quantize: as for `convert`.
      representative: as for `convert`.

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
    content = convert(model, sparse=sparse, batch=batch, quantize=quantize, representative=representative)
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
    machine = _interpreter(content, threads=1)
    ends = (machine.get_input_details(), machine.get_output_details())
    if any(len(end) > 1 for end in ends):
        raise InputError("The model has several inputs or outputs: call a tf.lite.Interpreter yourself.")
    (inputs,), (made,) = ends
    if not len(x) or len(x) % inputs["shape"][0]:
        raise InputError(f"{len(x)} examples do not fill batches of {inputs['shape'][0]}: give a multiple of it.")
    results = []
    for batch in x.reshape(-1, *inputs["shape"]):
        machine.set_tensor(inputs["index"], batch.astype(inputs["dtype"]))
        machine.invoke()
        results.append(machine.get_tensor(made["index"]))
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
    machines = {name: _prepare(_interpreter(content, threads)) for name, content in contents.items()}
    times: dict[str, list[float]] = {name: [] for name in contents}
    for _ in range(warmups + runs):
        for name, machine in machines.items():
            start = time.perf_counter()
            machine.invoke()
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
    made = interpreter(content, threads)
    made.allocate_tensors()
    return made


def _prepare(machine: Any) -> Any:
    """Sets the inputs of an interpreter: random floats, and zeros for integers, which are valid indices."""
    rng = np.random.default_rng(0)
    for each in machine.get_input_details():
        numbers = (
            rng.normal(size=each["shape"]) if np.issubdtype(each["dtype"], np.floating) else np.zeros(each["shape"])
        )
        machine.set_tensor(each["index"], numbers.astype(each["dtype"]))
    return machine
