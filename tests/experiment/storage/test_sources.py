"""Files of Keras as a source of weights, and saved Keras models as networks."""

import keras
import numpy as np
import pytest

from sparse_lib import api
from sparse_lib.experiment.data import Dataset, Split
from sparse_lib.experiment.networks import MLP, VGG16, KerasModel, LeNet5, Style
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import sources
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import build_model, build_run
from tests.experiment import tiny

IMAGE = (32, 32, 3)


def lenet(seed=0) -> keras.Model:
    return LeNet5(hidden_sizes=(2, 3, 10, 8)).build((28, 28, 1), 10, Style(seed=seed))


def saved(model, path):
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def assert_same_weights(one, other):
    for first, second in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["own.keras", "own.weights.h5", "own.h5"])
def test_weights_of_a_network_come_back(name, tmp_path):
    path, model = saved(lenet(seed=1), tmp_path / name), lenet()
    sources.load(path, model)
    assert_same_weights(model, lenet(seed=1))
    with pytest.raises(RunError, match="holds weights without masks"):
        sources.masks(path, model, api.sparse_kernels(model))


@pytest.fixture(scope="module")
def pretrained():
    """A narrow VGG16 of keras.applications' own layers; its published weights have the same geometry."""
    return keras.applications.VGG16(weights=None, input_shape=IMAGE, classes=10, classifier_activation=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["vgg.keras", "vgg.weights.h5", "vgg.h5"])
def test_vgg16_of_keras_applications_fits_ours(name, pretrained, tmp_path):
    path, model = saved(pretrained, tmp_path / name), VGG16().build(IMAGE, 10, Style())
    sources.load(path, model)
    images = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype(np.float32)
    expected = pretrained(images).numpy()
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["other.keras", "other.weights.h5", "other.h5"])
def test_weights_of_another_network_are_refused_in_one_line(name, tmp_path):
    path = saved(MLP(hidden_sizes=(12, 8)).build((28, 28, 1), 10, Style()), tmp_path / name)
    with pytest.raises(RunError, match="other.* does not fit lenet5: ") as raised:
        sources.load(path, lenet())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["gone.keras", "gone.h5"])
def test_a_file_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(RunError, match=f"There is no file .*{name}"):
        sources.load(tmp_path / name, lenet())
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(RunError, match=f"{name} does not fit lenet5: "):
        sources.load(tmp_path / name, lenet())


def test_a_run_starts_from_weights_of_keras_and_is_evaluated_from_them(tmp_path):
    path = saved(lenet(seed=1), tmp_path / "own.weights.h5")
    of = tiny.experiment(
        "lenet5", network={"network_name": "lenet5", "weight_init_path": str(path)}, masks={"sparsity": 0.5}
    )
    built = build_run(of, fresh=True)
    for kernel, mask in built.optimizer.masks:
        source = next(v for v in lenet(seed=1).variables if v.path == kernel.path)
        np.testing.assert_array_equal(kernel, np.where(mask, source, 0))
    sparse = saved(built.model, tmp_path / "sparse.weights.h5")
    assert run.evaluate(tiny.experiment("lenet5"), sparse)["sparsity"] == pytest.approx(
        built.optimizer.masks.sparsity()
    )


# Any model of Keras


def test_sparsify_keeps_pretrained_weights_where_the_mask_is_on():
    model = keras.applications.MobileNetV2(weights=None, input_shape=IMAGE, classes=10, alpha=0.35)
    before = {v.path: v.numpy() for v in model.variables}
    masks = api.sparsify(model, 0.8)
    on = {kernel.path: np.asarray(mask) for kernel, mask in masks}
    assert masks.sparsity() == pytest.approx(0.8, abs=1e-4)
    assert len(on) > 30
    for variable in model.variables:
        expected = np.where(on.get(variable.path, True), before[variable.path], 0)
        assert np.count_nonzero(expected) or not before[variable.path].any()
        np.testing.assert_array_equal(variable, expected)


def classifier() -> keras.Model:
    """A small network as others build them: biases, normalisation, probabilities."""
    inputs = keras.Input(IMAGE)
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x))
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def pictures() -> Dataset:
    rng = np.random.default_rng(0)
    split = Split(rng.random((32, *IMAGE), dtype=np.float32), (np.arange(32) % 10).astype(np.int32))
    return Dataset("pictures", split, split, split, num_classes=10)


def of_file(path, **settings):
    return tiny.experiment("keras_model", sizes=KerasModel(path=str(path)), dataset=pictures(), **settings)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    model = classifier()
    return model, saved(model, tmp_path_factory.mktemp("models") / "classifier.keras")


def test_a_saved_model_is_a_network_that_keeps_its_weights(stored):
    model, path = stored
    of = of_file(path, masks={"sparsity": 0.8}, mask_updater={"update_alg": "rigl", "update_freq": 2})
    built = build_run(of, fresh=True)
    masks = {kernel.path: np.asarray(mask) for kernel, mask in built.optimizer.masks}
    for variable, source in zip(built.model.variables, model.variables, strict=True):
        mask = masks.get(variable.path, True)
        np.testing.assert_array_equal(variable, np.where(mask, source, 0))
    # Probabilities became logits.
    dense = build_model(of_file(path))
    logits = dense(pictures().train.images, training=False).numpy()
    assert np.abs(logits.sum(1) - 1).max() > 0.01
    np.testing.assert_allclose(
        keras.ops.softmax(logits), model(pictures().train.images, training=False), rtol=1e-4, atol=1e-6
    )


def test_a_saved_model_is_pruned(tmp_path):
    source = lenet(seed=5)
    path = saved(source, tmp_path / "lenet.keras")
    pruning = {"mode": "prune", "begin_step": 2, "end_step": 8, "frequency": 2, "final_sparsity": 0.5}
    of = tiny.experiment("keras_model", sizes=KerasModel(path=str(path)), pruning=pruning)
    result = tiny.train(of, tmp_path / "run")
    assert result["sparsity"] == pytest.approx(0.5, abs=0.01)
    start = build_model(of)
    sources.load(tmp_path / "run" / "ckpt-0", start)
    assert_same_weights(start, source)


def test_weight_decay_reaches_the_kernels_of_a_saved_model(tmp_path):
    path = saved(lenet(), tmp_path / "lenet.keras")
    model = KerasModel(path=str(path)).build((28, 28, 1), 10, Style(weight_decay=0.01))
    expected = 0.01 * sum(np.sum(np.square(v.numpy())) for v in model.trainable_variables if v.name == "kernel")
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "gone.keras"}, "There is no file 'gone.keras': set keras_model.path"),
        ({"input_shape": (32, 32, 1)}, r"maps \[32, 32, 3\] to \[10\], and the data set \[32, 32, 1\] to \[10\]"),
        ({"num_classes": 7}, r"to \[10\], and the data set .* to \[7\]"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(stored, arguments, message):
    given = {"input_shape": IMAGE, "num_classes": 10, "path": stored[1]} | arguments
    with pytest.raises(ValueError, match=message) as raised:
        KerasModel(path=str(given["path"])).build(given["input_shape"], given["num_classes"], Style())
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_alone_are_no_model(tmp_path):
    path = saved(lenet(), tmp_path / "lenet.weights.h5")
    with pytest.raises(ValueError, match="Cannot load .*: save a whole model"):
        KerasModel(path=str(path)).build((28, 28, 1), 10, Style())
    with pytest.raises(SettingError, match="has no widths to scale"):
        KerasModel(path=str(path)).scale_width(0.5)
