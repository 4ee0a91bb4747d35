"""Training steps: what they are fed, and what they minimise."""

import dataclasses
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.data import Dataset, Split
from sparse_lib.experiment.data.feeding.pixels import pixels
from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing
from sparse_lib.experiment.data.sources.tfrecords import EncodedImages, index_records
from sparse_lib.experiment.runtime.errors import Interrupted, SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training.build import build_run
from sparse_lib.experiment.training.steps import Steps
from tests.experiment import tiny
from tests.replicas import two_replicas

RIGL = {"masks": {"sparsity": 0.5}, "mask_updater": {"update_alg": "rigl", "update_freq": 5}}
PLACES = {"train": slice(0, 200), "validation": slice(200, 260), "test": slice(260, 310)}


def digits() -> tuple[np.ndarray, np.ndarray]:
    of = tiny.dataset()
    images = np.concatenate([getattr(of, name).images for name in PLACES])
    return np.rint(255 * images).astype(np.uint8), np.concatenate([getattr(of, name).labels for name in PLACES])


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict[str, Dataset]:
    """The same pictures as floats, as bytes and on disk, in [0, 1]."""
    values, labels = digits()
    path = tmp_path_factory.mktemp("digits") / "digits.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(values, labels, strict=True):
            # The central 0.875 of 32 pixels are the 28 of a digit, and PNG is lossless.
            encoded = tf.io.encode_png(np.pad(image, ((2, 2), (2, 2), (0, 0)))).numpy()
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    index = index_records([path], "image", "label")
    assert index.pop("label").tolist() == labels.tolist()
    on_disk = EncodedImages([path], index, 28, 1, Preprocessing())

    def dataset(make) -> Dataset:
        splits = {name: Split(make(rows), labels[rows]) for name, rows in PLACES.items()}
        return Dataset("digits", **splits, num_classes=10)

    return {
        "floats": dataset(lambda rows: np.divide(values[rows], np.float32(255))),
        "bytes": dataset(lambda rows: pixels(values[rows], Preprocessing())),
        "disk": dataset(on_disk.take),
    }


def steps_taken(dataset: Dataset, *, first=0, last=12, start=None, **settings) -> list[np.ndarray]:
    """State after some steps, mask updates among them, from the state before them."""
    built = build_run(tiny.experiment(dataset=dataset, **(RIGL | settings)), fresh=True)
    continuous = "topkast" in settings.get("mask_updater", {}).values()
    masks = built.optimizer.masks
    variables = [v.value for v in [*built.model.variables, *built.optimizer.variables]]
    variables += [*masks.variables_by_kernel, *masks.explored]
    for variable, value in zip(variables, start or [], strict=bool(start)):
        variable.assign(value)
    for step in range(first, last):
        if not continuous and built.optimizer.updater.schedule.is_update_step(step):
            _, gradients = built.steps.begin_mask_update(step)
            built.steps.finish_mask_update(gradients)
        else:
            built.steps.run(step, 1, with_updates=continuous)
    return [variable.numpy() for variable in variables]


def assert_same(one, other, *, exact=True):
    for first, second in zip(one, other, strict=True):
        if exact or first.dtype.kind != "f":
            np.testing.assert_array_equal(first, second)
        else:
            np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)


TOPKAST = {"mask_updater": {"update_alg": "topkast"}}
AUGMENTED = pytest.mark.parametrize(("kind", "augmentation"), [("bytes", "crop_flip"), ("disk", "inception")])


@pytest.mark.parametrize(
    "settings",
    [pytest.param({}, id="rigl"), pytest.param(TOPKAST, id="topkast", marks=pytest.mark.slow)],
)
def test_training_does_not_depend_on_where_its_images_lie(stored, settings):
    floats = steps_taken(stored["floats"], **settings)
    for kind in ("bytes", "disk"):
        assert_same(steps_taken(stored[kind], **settings), floats)


@AUGMENTED
def test_augmented_training_may_stop_anywhere(stored, kind, augmentation):
    dataset = dataclasses.replace(stored[kind], augmentation=augmentation)
    whole = steps_taken(dataset)
    assert_same(steps_taken(dataset, first=5, start=steps_taken(dataset, last=5)), whole)
    plain = steps_taken(stored[kind])
    assert any(not np.array_equal(one, other) for one, other in zip(whole, plain, strict=True))


@pytest.mark.slow
@AUGMENTED
def test_replicas_share_an_augmented_batch(stored, kind, augmentation):
    dataset = dataclasses.replace(stored[kind], augmentation=augmentation)
    alone = steps_taken(dataset)
    with two_replicas().scope():
        assert_same(steps_taken(dataset), alone, exact=False)


@pytest.mark.slow
@AUGMENTED
def test_an_augmented_run_that_is_stopped_ends_like_one_that_is_not(stored, kind, augmentation, tmp_path, monkeypatch):
    of = tiny.experiment(dataset=dataclasses.replace(stored[kind], augmentation=augmentation), **RIGL)
    tiny.train(of, tmp_path / "whole")
    steps = Steps.run
    monkeypatch.setattr(
        Steps, "run", lambda self, step, n, **k: signal.raise_signal(signal.SIGTERM) or steps(self, step, n, **k)
    )
    with pytest.raises(Interrupted):
        tiny.train(of, tmp_path / "broken")
    monkeypatch.undo()
    tiny.train(of, tmp_path / "broken")
    readers = Reader(tmp_path / "whole"), Reader(tmp_path / "broken")
    for group in ("model", "masks", "optimizer"):
        assert_same(*([reader.read(group, name) for name in reader.names(group)] for reader in readers))
    for file in (files.METRICS, files.MASK_UPDATES):
        assert (tmp_path / "whole" / file).read_text() == (tmp_path / "broken" / file).read_text()


# What is minimised


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_is_that_of_keras_and_leaves_the_reported_loss_alone(smoothing):
    rate, rows = 0.5, 16
    described = tiny.experiment(
        training={"label_smoothing": smoothing, "batch_size": rows}, optimizer={"name": "sgd", "schedule": "constant"}
    )
    built = build_run(described, fresh=True)
    model, train_split = built.model, described.dataset.train
    batch = built.steps.indices(0, 1)[0]
    before = [tf.identity(v) for v in model.trainable_variables]
    loss_function = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    with tf.GradientTape() as tape:
        logits = model(train_split.images[batch], training=True)
        loss = loss_function(tf.one_hot(train_split.labels[batch], 10), logits)
    gradients = tape.gradient(loss, model.trainable_variables)
    seen = built.steps.run(0, 1)
    rate = float(built.optimizer.learning_rate)
    for old, gradient, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, old - rate * gradient, rtol=1e-4, atol=1e-6)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(train_split.labels[batch], logits)
    assert seen.losses[0] == pytest.approx(float(plain), rel=1e-6)
    assert abs(float(plain) - float(loss)) > 1e-4


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_label_smoothing_out_of_range_is_refused(value):
    with pytest.raises(SettingError, match=r"training.label_smoothing=.* must be at least 0 and below 1"):
        TrainingSettings(label_smoothing=value)


def test_weight_decay_warms_up():
    """Steps of plain gradient descent on a loss of L2 alone: w <- w (1 - 2 rate decay min(1, t / 4))."""
    network = {"network_name": "mlp", "weight_decay": 0.5, "weight_decay_warmup": 4}
    made = build_run(
        tiny.experiment(network=network, optimizer={"name": "sgd", "learning_rate": 0.1, "schedule": "constant"}),
        fresh=True,
    )
    plain = build_run(
        tiny.experiment(optimizer={"name": "sgd", "learning_rate": 0.1, "schedule": "constant"}), fresh=True
    )
    kernel, bare = (of.model.get_layer("dense3").kernel for of in (made, plain))
    for step in range(6):
        for variable, value in zip(plain.model.variables, made.model.variables, strict=True):
            variable.assign(value)
        before = kernel.numpy()
        for of in (made, plain):
            of.steps.run(step, 1)
        shrunk = 2 * 0.1 * 0.5 * min(1.0, step / 4) * before
        np.testing.assert_allclose(bare.numpy() - kernel.numpy(), shrunk, rtol=1e-3, atol=1e-6)
