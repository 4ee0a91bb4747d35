"""What a run measures of itself, against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data import Dataset, Split
from sparse_lib.experiment.networks import MLP
from sparse_lib.experiment.training import metrics
from sparse_lib.experiment.training.build import build_run
from sparse_lib.experiment.training.metrics import BatchStatisticsEvaluator, Evaluator, Measurements, select_held_out
from tests.experiment import tiny


@pytest.fixture(scope="module")
def made():
    return build_run(tiny.experiment("lenet5", masks={"sparsity": 0.6}, training={"total_steps": 5}), fresh=True)


def measurements(made, dataset=None, held_size=40, **options):
    initial = [v.numpy() for v in made.model.trainable_variables]
    data = dataset or tiny.dataset()
    return Measurements(made.model, made.optimizer, data, held_size=held_size, initial=initial, **options)


def test_evaluation_is_that_of_numpy_however_it_is_cut(made, monkeypatch):
    split = tiny.dataset().test
    logits = made.model(split.images).numpy().astype(np.float64)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    shares = shifted / shifted.sum(1, keepdims=True)
    loss = -np.log(shares[np.arange(len(split)), split.labels]).mean()
    for pixels in (28 * 28 * 7, 28 * 28 * 50, 1, 10**9):
        monkeypatch.setattr(metrics, "PIXELS_AT_ONCE", pixels)
        found, right = Evaluator(made.model).evaluate(split)
        assert found == pytest.approx(loss, rel=1e-5)
        assert right == np.mean(logits.argmax(1) == split.labels)


def test_measuring_moves_nothing(made):
    before = [v.numpy().copy() for v in [*made.model.variables, *made.optimizer.variables]]
    at = measurements(made)
    first, again = at.scalars(), at.scalars()
    assert first == again
    for variable, value in zip([*made.model.variables, *made.optimizer.variables], before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_measuring_leaves_batch_statistics_alone():
    normed = build_run(tiny.experiment(sizes=MLP(hidden_sizes=(12, 8), use_batch_norm=True)), fresh=True)
    before = [v.numpy().copy() for v in normed.model.non_trainable_variables]
    at = measurements(normed)
    at.scalars()
    at.gradient_norm()
    for variable, value in zip(normed.model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_loss_decrease_is_that_of_a_step(made):
    values = measurements(made).scalars()
    x, y = tiny.dataset().validation.images[:40], tiny.dataset().validation.labels[:40]
    variables = made.model.trainable_variables

    def loss():
        return tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(y, made.model(x), from_logits=True))

    with tf.GradientTape() as tape:
        before = loss()
    masks = made.optimizer.masks.aligned(variables)
    gradients = [
        g if m is None else tf.where(m, g, 0.0) for g, m in zip(tape.gradient(before, variables), masks, strict=True)
    ]
    rate = values["learning_rate"]
    squares = sum(float(tf.reduce_sum(g**2)) for g in gradients)
    assert values["gradient_norm"] == pytest.approx(np.sqrt(squares), rel=1e-4)
    assert values["predicted_loss_decrease"] == pytest.approx(rate * squares, rel=1e-4)
    start = [v.numpy() for v in variables]
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(rate * gradient)
    assert values["real_loss_decrease"] == pytest.approx(float(before - loss()), rel=1e-3, abs=1e-6)
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)


def test_a_unit_that_is_silent_on_the_data_is_dead():
    made = build_run(tiny.experiment(), fresh=True)
    layer = made.model.get_layer("dense1")
    layer.bias.assign(np.where(np.arange(12) < 3, -1e6, 0.0).astype(np.float32))
    values = measurements(made).scalars()
    outputs = np.maximum(tiny.dataset().validation.images[:40].reshape(40, -1) @ layer.kernel.numpy() + layer.bias, 0)
    assert (
        values["dead_units/dense1"] == pytest.approx((outputs.sum(0) == 0).mean()) and (outputs.sum(0) == 0).sum() >= 3
    )


def test_dormant_units_are_those_of_a_small_share_of_the_activity():
    made = build_run(tiny.experiment(), fresh=True)
    values = measurements(made, dormant_threshold=0.6).scalars()
    x, dormant = tiny.dataset().validation.images[:40].reshape(40, -1), []
    for name in ("dense1", "dense2"):
        kernel, bias = made.model.get_layer(name).get_weights()
        x = np.maximum(x @ kernel + bias, 0)
        dormant.append(x.mean(axis=0) <= 0.6 * x.mean())
        assert values[f"dormant_units/{name}"] == pytest.approx(dormant[-1].mean()) and 0 < dormant[-1].mean() < 1
    assert values["dormant_units"] == pytest.approx(np.concatenate(dormant).mean())
    assert not any(name.startswith("dormant") for name in measurements(made).scalars())


def test_gradients_are_measured_on_what_is_held_out():
    dataset = tiny.dataset()
    assert select_held_out(dataset) is dataset.validation
    empty = Split(dataset.validation.images[:0], dataset.validation.labels[:0])
    assert select_held_out(Dataset("none", dataset.train, empty, dataset.test, num_classes=10)) is dataset.train


def test_batch_statistics_are_those_of_each_batch(made):
    normed = build_run(tiny.experiment(sizes=MLP(hidden_sizes=(12, 8), use_batch_norm=True)), fresh=True).model
    split = tiny.dataset().test
    before = [v.numpy().copy() for v in normed.variables]
    losses, logits = BatchStatisticsEvaluator(normed, 24).logits(split)

    # 50 images in 2 batches; in numpy, every layer with mean and biased variance of its batch.
    def forward(batch):
        x = batch.reshape(len(batch), -1).astype(np.float64)
        for index in (1, 2):
            dense, norm = normed.get_layer(f"dense{index}"), normed.get_layer(f"dense{index}_norm")
            x = np.maximum(x @ dense.kernel.numpy() + dense.bias.numpy(), 0)
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + norm.epsilon) * norm.gamma.numpy() + norm.beta.numpy()
        last = normed.get_layer("dense3")
        return x @ last.kernel.numpy() + last.bias.numpy()

    expected = np.concatenate([forward(split.images[:25]), forward(split.images[25:])])
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    shifted = expected - expected.max(1, keepdims=True)
    entropies = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(split)), split.labels]
    np.testing.assert_allclose(losses, entropies, rtol=1e-3, atol=1e-4)
    for variable, value in zip(normed.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    with pytest.raises(InputError, match="lenet5 has no batch normalisation; leave --use_batch_statistics out"):
        BatchStatisticsEvaluator(made.model, 24)
