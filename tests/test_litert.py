"""LiteRT files compute what the Keras model computes."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import deployment

L = keras.layers
# Products are summed in another order.
TOLERANCE = 1e-5
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated:UserWarning")


def convnet() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(8, 3, strides=2, use_bias=False)(L.ZeroPadding2D()(image))))
    x = L.Add()([x, L.Conv2D(8, 1)(L.DepthwiseConv2D(3, padding="same")(x))])
    x = L.Dense(64, "relu", name="wide")(L.Flatten()(x))
    return keras.Model(image, L.Dense(10, name="logits")(x))


def dense() -> keras.Model:
    return keras.Sequential([keras.Input((64,)), L.Dense(128, "relu"), L.Dense(64, "tanh"), L.Dense(12)])


def by_hand(content: bytes, example: np.ndarray) -> np.ndarray:
    """Returns what the interpreter makes of one example."""
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], example)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def examples(model: keras.Model, n: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *model.inputs[0].shape[1:])).astype("float32")


def pairwise(rows: list[tuple], fast: list[tuple]) -> list:
    """Returns the rows with each way of storing; the fast ones have each network and each way once."""
    both = [(*row, sparse) for row in rows for sparse in (False, True)]
    return [row if row in fast else pytest.param(*row, marks=pytest.mark.slow) for row in both]


CHANNELS, WIDE = (convnet, sparse_lib.Channel(), 0.5), (convnet, sparse_lib.Block(4, 1), 0.9)
BLOCKS, PAIRS = (dense, sparse_lib.Block(4, 1), 0.75), (dense, sparse_lib.NM(2, 4), 0.5)


@pytest.mark.parametrize(
    ("make", "structure", "sparsity", "sparse"),
    pairwise([CHANNELS, WIDE, BLOCKS, PAIRS], [(*CHANNELS, False), (*BLOCKS, True)]),
)
def test_outputs_are_those_of_keras(make, structure, sparsity, sparse, tmp_path):
    model = make()
    sparse_lib.sparsify(model, sparsity, "uniform", structure=structure)
    path = tmp_path / "model.tflite"
    size = deployment.export(model, path, sparse=sparse)
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]
    assert path.stat().st_size == size
    x = examples(model)
    expected = model(x, training=False).numpy()
    atol = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(by_hand(path.read_bytes(), x[:1]), expected[:1], rtol=0, atol=atol)
    np.testing.assert_allclose(deployment.outputs(path.read_bytes(), x), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "structure",
    [sparse_lib.structures.UNSTRUCTURED, pytest.param(sparse_lib.Block(4, 1), marks=pytest.mark.slow)],
    ids=str,
)
def test_zeros_are_not_stored(structure):
    model = dense()
    masks = sparse_lib.sparsify(model, 0.9, "uniform", structure=structure)
    saved = len(deployment.convert(model, sparse=False)) - len(deployment.convert(model))
    weights = 4 * sum(masks.sizes())
    assert 0.6 * weights < saved < weights


@pytest.mark.slow
def test_a_batch_that_is_open_or_of_several():
    model = dense()
    x = examples(model, 6)
    for batch in (None, 3):
        found = deployment.outputs(deployment.convert(model, batch=batch), x)
        np.testing.assert_allclose(found, model(x), rtol=0, atol=1e-5)


def test_several_inputs_and_tokens():
    tokens, numbers = keras.Input((5,), dtype="int32", name="tokens"), keras.Input((3,), name="numbers")
    x = L.Concatenate()([L.GlobalAveragePooling1D()(L.Embedding(7, 4)(tokens)), numbers])
    content = deployment.convert(keras.Model({"tokens": tokens, "numbers": numbers}, L.Dense(2)(x)))
    with pytest.raises(ValueError, match="several inputs or outputs: call a tf.lite.Interpreter"):
        deployment.outputs(content, np.zeros((1, 3)))
    measured = deployment.latency({"it": content}, runs=3, warmups=1)["it"]
    assert measured.size == len(content)
    assert 0 < measured.fastest <= measured.median


def test_a_subclassed_model():
    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = L.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    with pytest.raises(ValueError, match="is not built: call it on a batch once"):
        deployment.convert(model)
    x = np.ones((1, 3), "float32")
    expected = model(x)
    np.testing.assert_allclose(deployment.outputs(deployment.convert(model), x), expected, rtol=0, atol=1e-6)


def test_a_layer_that_litert_cannot_have_is_named(tmp_path):
    class Inverse(L.Layer):
        def call(self, x):
            return tf.linalg.inv(x)

    inputs = keras.Input((4, 4))
    model = keras.Model(inputs, L.Flatten()(Inverse(name="backwards")(inputs)))
    with pytest.raises(ValueError, match="MatrixInverse in layer 'backwards': .* replace the layer"):
        deployment.export(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_recurrent_layer_needs_a_batch_size():
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, L.LSTM(3, name="memory")(inputs))
    with pytest.raises(ValueError, match="TensorListReserve in layer 'memory': fix the batch size"):
        deployment.convert(model, batch=None)
    x = examples(model, 2)
    np.testing.assert_allclose(deployment.outputs(deployment.convert(model), x), model(x), rtol=0, atol=1e-5)


def test_bad_input_is_told(tmp_path):
    content = deployment.convert(dense(), batch=4)
    with pytest.raises(ValueError, match="6 examples do not fill batches of 4"):
        deployment.outputs(content, np.zeros((6, 64)))
    with pytest.raises(ValueError, match="nothing to measure in 0 models"):
        deployment.latency({})
    with pytest.raises(FileNotFoundError, match="model.tflite cannot be written there: create the folder"):
        deployment.export(dense(), tmp_path / "missing" / "model.tflite")


def test_the_table_compares_with_the_first():
    table = deployment.latency_table(
        {
            "dense": deployment.Latency(2_000_000, 0.004, 0.003),
            "small": deployment.Latency(500_000, 0.001, 0.0005),
        }
    )
    assert [line.split() for line in table.splitlines()[1:]] == [
        ["dense", "2,000", "4.000", "3.000", "1.00"],
        ["small", "500", "1.000", "0.500", "4.00"],
    ]


def ragged(inputs: int, units: int, rank: int = 1) -> keras.Model:
    """Returns dense layers of which no side is a multiple of a block."""
    shape = (inputs,) if rank == 1 else (3, inputs)
    return keras.Sequential([keras.Input(shape, name="x"), L.Dense(units, "tanh"), L.Dense(7)])


def patch_converter(monkeypatch, content: bytes) -> None:
    """Makes TensorFlow's converter return the given file, whatever the model."""
    converter = SimpleNamespace(convert=lambda: content, optimizations=set())
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", lambda _: converter)


@pytest.mark.parametrize(
    ("inputs", "structure", "sparsity", "rank"),
    [
        (51, sparse_lib.structures.UNSTRUCTURED, 0.98, 1),
        pytest.param(55, sparse_lib.structures.UNSTRUCTURED, 0.98, 2, marks=pytest.mark.slow),
        pytest.param(51, sparse_lib.Block(4, 1), 0.9, 1, marks=pytest.mark.slow),
        pytest.param(47, sparse_lib.Block(4, 1), 0.5, 1, marks=pytest.mark.slow),
        pytest.param(23, sparse_lib.Channel(), 0.7, 1, marks=pytest.mark.slow),
    ],
)
def test_no_weight_beyond_the_last_whole_block_is_lost(inputs, structure, sparsity, rank, recwarn):
    """The converter cuts kernels off at a multiple of four inputs."""
    keras.utils.set_random_seed(1)
    model = ragged(inputs, 137, rank)
    sparse_lib.sparsify(model, sparsity, "uniform", structure=structure)
    x = examples(model)
    expected = model(x).numpy()
    atol = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(deployment.outputs(deployment.convert(model), x), expected, rtol=0, atol=atol)
    assert not [w for w in recwarn if "something else" in str(w.message)]


@pytest.mark.slow
def test_kernels_with_whole_blocks_stay_sparse_beside_others():
    """Only the second kernel, of 36 inputs, can be stored in blocks."""
    model = keras.Sequential([keras.Input((50,)), L.Dense(36, "relu"), L.Dense(400, "relu"), L.Dense(3)])
    sparse_lib.sparsify(model, 0.98, "uniform", exclude=model.layers[2].name)
    x = examples(model)
    content = deployment.convert(model)
    np.testing.assert_allclose(deployment.outputs(content, x), model(x), rtol=0, atol=1e-5)
    assert len(content) < len(deployment.convert(model, sparse=False)) - 0.8 * 4 * 36 * 400


def test_a_file_that_computes_something_else_is_replaced_or_refused(monkeypatch):
    model = ragged(51, 37)
    sparse_lib.sparsify(model, 0.98, "uniform")
    model.layers[0].kernel.assign(np.where(np.arange(51)[:, None] == 50, np.ones((51, 37)), 0))
    x = examples(model)
    monkeypatch.setattr(deployment.litert, "store_cut_blocks_dense", lambda content, _: content)
    with pytest.warns(UserWarning, match="computes something else than the model: all kernels are stored dense"):
        content = deployment.convert(model)
    np.testing.assert_allclose(deployment.outputs(content, x), model(x), rtol=0, atol=1e-5)
    other = deployment.convert(ragged(51, 37), sparse=False)
    patch_converter(monkeypatch, other)
    with pytest.raises(ValueError, match="file of model .* computes something else, .*% off"):
        deployment.convert(model, sparse=False)


def test_outputs_by_name_integers_and_open_lengths_are_compared(monkeypatch):
    tokens, numbers = keras.Input((None,), dtype="int32", name="tokens"), keras.Input((3,), name="numbers")
    x = L.Concatenate()([L.GlobalAveragePooling1D()(L.Embedding(7, 5)(tokens)), numbers])
    model = keras.Model([tokens, numbers], {"first": L.Dense(2)(x), "second": L.Dense(9)(x)})
    content = deployment.convert(model)
    keras.utils.set_random_seed(9)
    other = keras.models.clone_model(model)
    patch_converter(monkeypatch, content)
    with pytest.raises(ValueError, match="computes something else"):
        deployment.convert(other, sparse=False)


def test_random_models_cannot_be_compared():
    class Noisy(L.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    model = keras.Sequential([keras.Input((5,)), L.Dense(3), Noisy()])
    with pytest.warns(UserWarning, match="draws random numbers at inference"):
        deployment.convert(model, sparse=False)


@pytest.mark.parametrize("sparse", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_int8_is_close_and_small(sparse):
    keras.utils.set_random_seed(0)
    image = keras.Input((9, 9, 3))
    x = L.Flatten()(L.Conv2D(6, 3, activation="relu")(image))
    model = keras.Model(image, L.Dense(5)(L.Dense(101, "relu")(x)))
    sparse_lib.sparsify(model, 0.9, "uniform")
    x = examples(model, 64)
    content = deployment.convert(model, sparse=sparse, quantize="int8", representative=x)
    expected = model(x).numpy()
    apart = deployment.outputs(content, x) - expected
    assert 0 < np.sqrt(np.mean(apart**2)) < 0.05 * np.sqrt(np.mean(expected**2))
    assert len(content) < (0.8 if sparse else 0.5) * len(deployment.convert(model, sparse=sparse))


@pytest.mark.slow
def test_int8_of_several_inputs_by_name():
    left, right = keras.Input((5,), name="left"), keras.Input((3,), name="right")
    model = keras.Model([right, left], L.Dense(2)(L.Concatenate()([left, right])))
    rng = np.random.default_rng(0)
    pair = [rng.normal(size=(20, 3)), 100 * rng.normal(size=(20, 5))]
    assert deployment.convert(model, quantize="int8", representative=pair)
    for wrong in (pair[0], [pair[0], pair[1][:7]]):
        with pytest.raises(ValueError, match="representative inputs are .*: give 2 for model"):
            deployment.convert(model, quantize="int8", representative=wrong)


def test_int8_needs_typical_inputs(tmp_path):
    for options in ({"quantize": "int8"}, {"representative": np.zeros((4, 64))}):
        with pytest.raises(ValueError, match="quantize='int8' needs representative="):
            deployment.export(dense(), tmp_path / "model.tflite", **options)
    with pytest.raises(ValueError, match="quantize='int4' is not known: use 'int8'"):
        deployment.convert(dense(), quantize="int4", representative=np.zeros((4, 64)))
