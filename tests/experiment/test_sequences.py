"""Examples of two axes go through everything: training with sparse 1-D convolutions, spectra, interpolation."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.experiment.analyses import interpolation, spectra
from sparse_lib.experiment.config.analyses import HessianSettings, InterpolateSettings
from sparse_lib.experiment.data import Dataset, Split
from sparse_lib.experiment.networks import ConvNet1D
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training.build import build_model
from tests.experiment import tiny


def sequences() -> Dataset:
    """A bump at one of three places, with noise."""

    def split(count: int, seed: int) -> Split:
        random = np.random.default_rng(seed)
        labels = (np.arange(count) % 3).astype(np.int32)
        values = 0.3 * random.normal(size=(count, 12, 1))
        values[np.arange(count), 2 + 4 * labels] += 2
        return Split(values.astype(np.float32), labels)

    return Dataset("sequences", split(120, 0), split(40, 1), split(60, 2), num_classes=3)


@pytest.fixture(scope="module")
def made():
    return tiny.experiment(
        "convnet1d",
        sizes=ConvNet1D(hidden_sizes=(4, 5)),
        dataset=sequences(),
        masks={"distribution": "erk", "sparsity": 0.5},
        mask_updater={"update_alg": "rigl", "update_freq": 10, "init_drop_fraction": 0.3},
    )


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "rigl"
    tiny.train(made, directory)
    return directory


def scores(made, directory, step):
    """Test loss (nats) and accuracy of a checkpoint by Keras' call of the network."""
    model, reader = build_model(made), Reader(directory / f"ckpt-{step}")
    for variable in model.trainable_variables:
        variable.assign(reader.read("model", variable.path))
    test = made.dataset.test
    logits = model(test.images)
    losses = tf.keras.losses.sparse_categorical_crossentropy(test.labels, logits, from_logits=True)
    return float(tf.reduce_mean(losses)), float(np.mean(np.argmax(logits, -1) == test.labels))


def test_training_keeps_the_masks_and_reports_what_keras_computes(made, finished):
    result = json.loads((finished / files.RESULT).read_text())
    assert (result["test_loss"], result["test_accuracy"]) == pytest.approx(scores(made, finished, 24), rel=1e-5)
    assert result["test_loss"] < scores(made, finished, 0)[0]
    last = Reader(finished / "ckpt-24")
    names = last.names("masks")
    assert {"conv1.kernel", "conv2.kernel", "dense1.kernel"} == set(names)
    active = {name: last.read("masks", name) for name in names}
    assert sum(mask.sum() for mask in active.values()) / sum(m.size for m in active.values()) == pytest.approx(
        0.5, abs=0.02
    )
    assert all(not last.read("model", f"convnet1d.{name}")[~mask].any() for name, mask in active.items())
    assert [line["step"] for line in tiny.lines(finished, files.MASK_UPDATES)] == [10, 20]


@pytest.mark.slow
def test_spectra_and_interpolation(made, finished, tmp_path):
    found = spectra.compute(made, finished, HessianSettings(batch_size=60))
    values = np.load(finished / "hessian" / "ckpt-24.npz")["eigenvalues"]
    masks = Reader(finished / "ckpt-24")
    biases = 4 + 5 + 3
    assert len(values) == biases + sum(int(masks.read("masks", name).sum()) for name in masks.names("masks"))
    assert found[24]["trace"] == pytest.approx(values.sum())
    interpolation.interpolate(
        made,
        InterpolateSettings(n_interpolation=4),
        start=finished / "ckpt-0",
        end=finished / "ckpt-24",
        directory=tmp_path / "path",
    )
    with (tmp_path / "path" / files.INTERPOLATION).open() as file:
        test = [row for row in csv.DictReader(file) if row["split"] == "test"]
    losses = {float(row["coefficient"]): float(row["loss"]) for row in test}
    assert losses[0] == pytest.approx(scores(made, finished, 0)[0], rel=1e-5)
    assert losses[1] == pytest.approx(scores(made, finished, 24)[0], rel=1e-5)
