"""Surfaces: a quadratic bowl in closed form, and a model whose centre is its plain loss."""

import numpy as np
import pytest

from sparse_lib.landscape import (
    ModelEvaluator,
    Plane,
    Score,
    assembled,
    axis_around_zero,
    axis_over,
    evaluate_rows,
    evaluate_surface,
    random_direction,
)

RNG = np.random.default_rng(0)
CURVATURES = [RNG.uniform(0.1, 3, size=s) for s in ((4, 3), (3,))]
ORIGIN, X, Y = ([RNG.normal(size=c.shape) for c in CURVATURES] for _ in range(3))


def bowl(values):
    """1/2 sum_i c_i w_i^2, and something that tells the splits apart."""
    loss = sum(float(np.sum(c * v**2)) for c, v in zip(CURVATURES, values, strict=True)) / 2
    return {"train": Score(loss, 1 / (1 + loss)), "test": Score(2 * loss, 0.0)}


def test_quadratic_bowl():
    plane = Plane(ORIGIN, X, Y)
    xs, ys = axis_around_zero(1.5, 5), axis_around_zero(0.5, 3)
    found = evaluate_surface(plane, xs, ys, bowl)

    def form(one, other):
        return sum(float(np.sum(c * a * b)) for c, a, b in zip(CURVATURES, one, other, strict=True))

    for row, b in enumerate(ys):
        for column, a in enumerate(xs):
            expected = form(ORIGIN, ORIGIN) / 2 + a * form(ORIGIN, X) + b * form(ORIGIN, Y)
            expected += a**2 * form(X, X) / 2 + b**2 * form(Y, Y) / 2 + a * b * form(X, Y)
            assert found.loss["train"][row, column] == pytest.approx(expected)
            assert found.accuracy["train"][row, column] == pytest.approx(1 / (1 + expected))
    np.testing.assert_allclose(found.loss["test"], 2 * found.loss["train"])
    np.testing.assert_array_equal(found.xs, xs)


def test_rows_that_are_known_are_left_out():
    plane, xs, ys = Plane(ORIGIN, X, Y), axis_around_zero(1, 3), axis_around_zero(1, 5)
    asked = []

    def noting(values):
        asked.append(values)
        return bowl(values)

    rows = dict(evaluate_rows(plane, xs, ys, noting, done={0, 3}))
    assert sorted(rows) == [1, 2, 4] and len(asked) == 9
    rows |= dict(evaluate_rows(plane, xs, ys, bowl, done=set(rows)))
    whole = evaluate_surface(plane, xs, ys, bowl)
    pieces = assembled(xs, ys, [rows[i] for i in range(5)])
    np.testing.assert_array_equal(pieces.loss["train"], whole.loss["train"])


def test_centre_is_the_plain_loss(tiny_model):
    model = tiny_model("convnet")
    x = np.random.default_rng(1).normal(size=(30, 8, 8, 2)).astype(np.float32)
    evaluate = ModelEvaluator(model, {"train": (x, np.arange(30) % 3)})
    values = [v.numpy() for v in model.trainable_variables]
    directions = [random_direction(model, values, seed=0, index=i) for i in (0, 1)]
    axis = axis_around_zero(1.0, 3)
    found = evaluate_surface(Plane(values, *directions), axis, axis, evaluate)
    assert (found.loss["train"][1, 1], found.accuracy["train"][1, 1]) == evaluate(values)["train"]
    assert len(np.unique(found.loss["train"])) == 9
    for value, before in zip(model.trainable_variables, values, strict=True):
        np.testing.assert_array_equal(value, before)


@pytest.mark.parametrize("points", [3, 25, 51])
def test_zero_is_in_the_middle(points):
    axis = axis_around_zero(0.3, points)
    assert axis[points // 2] == 0 and (axis[0], axis[-1]) == (-0.3, 0.3)
    np.testing.assert_allclose(np.diff(axis), 0.6 / (points - 1))


def test_an_axis_covers_the_points_and_a_margin():
    np.testing.assert_allclose(axis_over([3.0, -1.0, 2.0], 0.25, 4), [-2, 0, 2, 4])


@pytest.mark.parametrize(
    "bad",
    [
        lambda: axis_around_zero(1, 4),
        lambda: axis_around_zero(1, 1),
        lambda: axis_around_zero(0, 3),
        lambda: axis_over([1, 1], 0.1, 5),
        lambda: axis_over([0, 1], 0.1, 1),
    ],
)
def test_bad_axes_are_refused(bad):
    with pytest.raises(ValueError, match="needs"):
        bad()
