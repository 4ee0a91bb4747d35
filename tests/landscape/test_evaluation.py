"""Evaluation at given weights equals plain evaluation, and a path is evaluated point by point."""

import keras
import numpy as np
import pytest

from sparse_lib import landscape
from sparse_lib.landscape import batch_norm
from tests.replicas import two_replicas


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return {
        name: (rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n))
        for name, n in (("train", 37), ("test", 10))
    }


def by_hand(model, x, y):
    logits = model(x, training=False).numpy().astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return losses.mean(), np.mean(logits.argmax(1) == y)


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_the_ends_of_a_path_are_the_models_themselves(tiny_model, data, batch_size):
    start, end = tiny_model(seed=0), tiny_model(seed=5)
    path = landscape.linear_path(*([v.numpy() for v in m.trainable_variables] for m in (start, end)))
    evaluate = landscape.ModelEvaluator(start, data, batch_size=batch_size)
    found = dict(landscape.evaluate_path(path, [0.0, 0.5, 1.0], evaluate))
    assert list(found) == [0.0, 0.5, 1.0]
    for place, model in ((0.0, start), (1.0, end)):
        for split, (x, y) in data.items():
            loss, accuracy = by_hand(model, x, y)
            assert found[place][split].loss == pytest.approx(loss, rel=1e-6)
            assert found[place][split].accuracy == accuracy
    # Between them stands what the mean of the weights gives, and no weight of the model has moved.
    before = [v.numpy().copy() for v in start.trainable_variables]
    for variable, a, b in zip(start.trainable_variables, path(0.0), path(1.0), strict=True):
        np.testing.assert_array_equal(variable.numpy(), a)
        variable.assign((a + b) / 2)
    assert found[0.5]["test"].loss == pytest.approx(by_hand(start, *data["test"])[0], rel=1e-6)
    assert len(before) == 4


@pytest.mark.parametrize("batch_size", [5, 19, 1000])
def test_two_replicas_find_what_one_device_does(tiny_model, data, batch_size):
    alone = tiny_model(seed=3)
    with two_replicas().scope():
        shared = tiny_model(seed=3)
    values = [v.numpy() for v in alone.trainable_variables]
    one, two = (landscape.ModelEvaluator(model, data, batch_size=batch_size)(values) for model in (alone, shared))
    for split in data:
        assert two[split].accuracy == one[split].accuracy
        assert two[split].loss == pytest.approx(one[split].loss, rel=1e-6)


def test_points_come_one_by_one(tiny_model):
    asked = []
    path = landscape.linear_path([np.zeros(1)], [np.ones(1)])
    points = landscape.evaluate_path(path, [0.0, 1.0], lambda values: asked.append(values) or {})
    assert asked == []
    next(points)
    assert len(asked) == 1


def test_another_loss(tiny_model, data):
    model = tiny_model()
    evaluate = landscape.ModelEvaluator(model, data, loss=lambda y, scores: scores[:, 0])
    x, _ = data["test"]
    found = evaluate([v.numpy() for v in model.trainable_variables])["test"].loss
    assert found == pytest.approx(float(np.mean(model(x).numpy()[:, 0])), rel=1e-5)


def test_batch_norm_takes_the_statistics_that_it_is_given(data):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    values = [v.numpy() for v in model.trainable_variables]
    evaluate = landscape.ModelEvaluator(model, data)
    x, y = data["train"]
    other = [np.full(3, 0.3, np.float32), np.full(3, 2.0, np.float32)]
    plain, moved = evaluate(values)["train"], evaluate(values, other)["train"]
    assert plain.loss == pytest.approx(by_hand(model, x, y)[0], rel=1e-6)
    for variable, value in zip(batch_norm.statistics(model), other, strict=True):
        variable.assign(value)
    assert moved.loss == pytest.approx(by_hand(model, x, y)[0], rel=1e-6)
    assert moved.loss != plain.loss


def test_data_and_values_that_do_not_fit(tiny_model, data):
    x, y = data["test"]
    with pytest.raises(ValueError, match="Split 'test' has 10 examples and 9 labels"):
        landscape.ModelEvaluator(tiny_model(), {"test": (x, y[:9])})
    with pytest.raises(ValueError, match="Split 'none' has 0 examples"):
        landscape.ModelEvaluator(tiny_model(), {"none": (x[:0], y[:0])})
    evaluate = landscape.ModelEvaluator(tiny_model(), data)
    with pytest.raises(ValueError, match="Got 3 values and 0 statistics; model 'tiny_mlp' has 4 trainable"):
        evaluate([v.numpy() for v in tiny_model().trainable_variables[:3]])
