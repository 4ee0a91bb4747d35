"""Learned curves on landscapes whose best curve is known, in subspaces, and stopped on the way."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import landscape
from sparse_lib.landscape.curve_fit import CHUNK, CurveFit, Examples, in_memory
from sparse_lib.objective import Objective

X, Y = np.zeros((8, 1), np.float32), np.zeros(8, np.int32)
DATA = in_memory(X, Y)


class Place(keras.layers.Layer):
    """Returns its one weight, a place on a landscape, for every example."""

    def build(self, _):
        self.place = self.add_weight(shape=(2,), initializer="zeros", name="place")

    def call(self, x):
        return tf.zeros_like(x) + self.place


def objective_of(height):
    """The objective whose loss is the height of a landscape at the model's weight."""
    return Objective(keras.Sequential([keras.Input((1,)), Place()]), lambda _, places: height(places))


def bowl(places):
    """An ellipse: 2 x^2 + y^2 / 2."""
    return 2 * places[:, 0] ** 2 + places[:, 1] ** 2 / 2


def hill(places):
    """Two wells at (-1, 0) and (1, 0) in a flat valley, and a hill between them whose top lies below the line."""
    x, y = places[:, 0], places[:, 1]
    return 0.02 * y**2 + tf.exp(-(x**2 + (y + 0.1) ** 2) / 0.1)


def point(*place):
    return [np.array(place, np.float32)]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_curve_in_a_bowl(seed):
    # With B(t) = (1-t)^2 A + 2t(1-t) C + t^2 D, the integral of any quadratic form of B is least at C = -3/4 (A + D).
    # The tolerance is what the sampling of t leaves after so many steps.
    start, end = point(1.0, 1.0), point(3.0, -2.0)
    curve = landscape.fit_curve(objective_of(bowl), start, end, X, Y, steps=2500, learning_rate=0.02, seed=seed)
    np.testing.assert_allclose(curve.points[1][0], [-3.0, 0.75], atol=0.2)


def test_the_curve_in_a_subspace_stays_there():
    masks = [np.array([True, False])]
    start, end = point(1.0, 0.0), point(3.0, 0.0)
    curve = landscape.fit_curve(
        objective_of(lambda p: bowl(p - [0.0, 1.0])), start, end, X, Y, steps=1500, learning_rate=0.2, masks=masks
    )
    assert curve.points[1][0][0] == pytest.approx(-3.0, abs=0.1)
    assert all(curve(t)[0][1] == 0.0 for t in landscape.coefficients())
    free = landscape.fit_curve(
        objective_of(lambda p: bowl(p - [0.0, 1.0])), start, end, X, Y, steps=1500, learning_rate=0.2
    )
    # Its second coordinate is that of the best curve to height 1 from ends at 0: a bowl around 1, seen from -1.
    assert free.points[1][0][1] == pytest.approx(1 + 1.5, abs=0.1)


@pytest.mark.parametrize("degree", [2, 3])
def test_a_curve_goes_around_the_hill(degree):
    start, end = point(-1.0, 0.0), point(1.0, 0.0)
    curve = landscape.fit_curve(objective_of(hill), start, end, X, Y, degree=degree, steps=1500, learning_rate=0.1)
    grid = landscape.coefficients(0.0, 1.0, 41)

    def highest(path):
        heights = [float(hill(path(t)[0][np.newaxis])[0]) for t in grid]
        return landscape.barrier(grid, heights).above_higher_end.height

    assert highest(landscape.linear_path(start, end)) == pytest.approx(np.exp(-0.1), rel=1e-3)
    assert highest(curve) < 0.1
    assert curve.length() > 2.2 and curve(0.5)[0][1] > 0.5


def test_the_gradient_of_a_step_is_that_of_the_curve():
    # One step of plain SGD from the line, against t of the same seed by hand: dL/dC = 2t(1-t) dL/dB.
    start, end = point(1.0, 0.0), point(0.0, 2.0)
    fit = CurveFit(objective_of(bowl), start, end, DATA, optimizer=keras.optimizers.SGD(0.5), seed=3)
    weights, _ = fit.draw(0, 1)
    place = weights[0, 0] * start[0] + weights[0, 1] * (start[0] + end[0]) / 2 + weights[0, 2] * end[0]
    gradient = weights[0, 1] * np.array([4 * place[0], place[1]])
    losses = fit.run(1)
    assert losses[0] == pytest.approx(2 * place[0] ** 2 + place[1] ** 2 / 2, rel=1e-5)
    np.testing.assert_allclose(fit.curve().points[1][0], (start[0] + end[0]) / 2 - 0.5 * gradient, atol=1e-5)


def test_places_are_uniform_and_batches_whole():
    fit = CurveFit(objective_of(bowl), point(0, 0), point(1, 1), DATA, optimizer=keras.optimizers.SGD(), batch_size=4)
    weights, rows = fit.draw(0, 4000)
    # b_2(t) = t^2, so its root is the place.
    places = np.sort(np.sqrt(weights[:, 2]))
    assert np.abs(places - np.linspace(0, 1, 4000)).max() < 0.03
    assert rows.shape == (4000, 4) and set(rows.ravel().tolist()) == set(range(8))
    again, _ = fit.draw(1000, 5)
    np.testing.assert_array_equal(again, weights[1000:1005])


def network(tiny_model):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)).astype(np.float32)
    y = np.argmax(x[:, :3], axis=1)
    ends = [[v.numpy() for v in tiny_model(seed=s).trainable_variables] for s in (0, 5)]
    return Objective(tiny_model()), *ends, x, y


@pytest.mark.parametrize(
    ("optimizer", "mode"),
    [
        pytest.param(optimizer, mode, marks=[pytest.mark.slow] * ((optimizer == "Adam") != (mode == "union")))
        for optimizer in ("SGD", "Adam")
        for mode in ("start", "union", "none")
    ],
)
def test_a_network_in_its_subspace(tiny_model, optimizer, mode):
    objective, start, end, x, y = network(tiny_model)
    rng = np.random.default_rng(1)
    masks = [[rng.random(v.shape) < 0.5 if v.ndim == 2 else None for v in start] for _ in range(2)]
    ends = landscape.masked_ends(start, end, *masks, mode)
    optimizer = getattr(keras.optimizers, optimizer)(0.5 if optimizer == "SGD" else 0.05)
    fit = CurveFit(
        objective, ends.start, ends.end, in_memory(x, y), optimizer=optimizer, masks=ends.masks, batch_size=20
    )
    before = [v.numpy().copy() for v in objective.model.variables]
    losses = fit.run(CHUNK + 20)
    assert losses.shape == (CHUNK + 20,) and fit.step == CHUNK + 20
    assert losses[-20:].mean() < losses[:20].mean()
    for value, mask in zip(fit.curve()(0.4), ends.masks, strict=True):
        assert mask is None or not value[~mask].any()
        assert mask is None or value[mask].all()
    for variable, value in zip(objective.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_restored_fit_goes_on_as_if_it_had_not_stopped(tiny_model):
    objective, start, end, x, y = network(tiny_model)

    def make():
        return CurveFit(objective, start, end, in_memory(x, y), optimizer=keras.optimizers.Adam(0.01), degree=3, seed=2)

    whole, first, second = make(), make(), make()
    expected = whole.run(70)
    losses = [first.run(30)]
    for group, variables in first.state().items():
        for name, variable in variables.items():
            second.state()[group][name].assign(variable)
    losses.append(second.run(40))
    np.testing.assert_array_equal(np.concatenate(losses), expected)
    for one, two in zip(whole.curve().points, second.curve().points, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_batch_norm_normalises_by_the_batch():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    norm = model.layers[-1]
    norm.moving_mean.assign([50.0, 50.0])
    values = [v.numpy() for v in model.trainable_variables]
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    fit = CurveFit(
        Objective(model),
        values,
        values,
        in_memory(x, np.zeros(40, int)),
        optimizer=keras.optimizers.SGD(0.0),
        batch_size=40,
    )
    # By its moving mean the logits would be -50 and -50 whatever the data; by the batch they have mean 0, variance 1.
    _, rows = fit.draw(0, 1)
    logits = model(x[rows[0]], training=True).numpy().astype(np.float64)
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[:, 0])
    norm.moving_mean.assign([50.0, 50.0])
    assert fit.run(1)[0] == pytest.approx(expected, rel=1e-4)
    assert norm.moving_mean.numpy().tolist() == [50.0, 50.0]


def test_examples_may_be_read_batch_by_batch(tiny_model):
    objective, start, end, x, y = network(tiny_model)

    def read(rows):
        found = tf.numpy_function(lambda wanted: x[wanted], [rows], tf.float32)
        return tf.ensure_shape(found, [*rows.shape, 6]), tf.gather(y, rows)

    fits = [
        CurveFit(objective, start, end, examples, optimizer=keras.optimizers.SGD(0.1))
        for examples in (in_memory(x, y), Examples(read, len(y)))
    ]
    np.testing.assert_array_equal(*(fit.run(5) for fit in fits))


def test_a_loss_that_is_not_finite_is_told():
    fit = CurveFit(objective_of(bowl), point(1, 0), point(3, 0), DATA, optimizer=keras.optimizers.SGD(1e20))
    with pytest.raises(ValueError, match=r"The loss along the curve is (inf|nan) at step \d+: lower the learning rate"):
        fit.run(50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 1}, "A curve of degree 1 has no control point to train"),
        ({"start": [np.zeros(3, np.float32)], "end": [np.zeros(3, np.float32)]}, "do not have the shapes of"),
        ({"masks": [np.array([True, False])]}, "An end of the curve leaves the subspace"),
        ({"end": [np.zeros(3, np.float32)]}, "of the same shapes"),
    ],
)
def test_what_is_no_fit(change, message):
    arguments = {"start": point(1, 1), "end": point(2, 2), "examples": DATA, "optimizer": keras.optimizers.SGD()}
    with pytest.raises(ValueError, match=message):
        CurveFit(objective_of(bowl), **{**arguments, **change})
