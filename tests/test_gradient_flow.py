"""Tests of gradient norms, effective gradient flow, loss decrease and distances."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import gradient_flow
from sparse_lib.objective import Objective

GRADIENTS = [
    tf.constant([[3.0, 4.0], [12.0, -2.0]]),
    tf.constant([2.0, -1.0]),
    tf.constant([[6.0, 8.0, 1.0]]),
]
MASKS = [
    tf.constant([[True, True], [True, False]]),
    None,
    tf.constant([[True, False, False]]),
]


def both_modes(function, *args):
    """The result in eager mode, after checking that a compiled graph gives the same."""
    eager = function(*args)
    for compiled in (tf.function(function), tf.function(function, jit_compile=True)):
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), eager, compiled(*args))
    return eager


def test_norms_of_a_worked_example():
    norms = both_modes(lambda g: gradient_flow.norms(g, MASKS), GRADIENTS)
    np.testing.assert_allclose(norms.per_tensor, [13.0, np.sqrt(5.0), 6.0])
    np.testing.assert_allclose(norms.total, np.sqrt(169 + 5 + 36))
    np.testing.assert_allclose(norms.off_per_tensor, [2.0, 0.0, np.sqrt(65.0)])
    np.testing.assert_allclose(norms.off_total, np.sqrt(4 + 65))
    assert {value.dtype for value in norms} == {tf.float64}


def test_active_and_inactive_norms_make_up_the_whole():
    rng = np.random.default_rng(0)
    gradients = [tf.constant(rng.normal(size=s), tf.float32) for s in [(7, 5), (5,), (3, 3, 2, 4)]]
    masks = [tf.constant(rng.random(g.shape) < 0.3) for g in gradients]
    norms = gradient_flow.norms(gradients, masks)
    whole = sum(np.sum(g.numpy().astype(np.float64) ** 2) for g in gradients)
    assert float(norms.total**2 + norms.off_total**2) == pytest.approx(whole, rel=1e-14)
    np.testing.assert_allclose(norms.total**2, np.sum(norms.per_tensor**2))


def test_norms_survive_infinities_off_the_mask_and_tiny_gradients():
    gradients = [tf.constant([3e-30, np.inf]), tf.constant([4e-30])]
    norms = gradient_flow.norms(gradients, [tf.constant([True, False]), None])
    np.testing.assert_allclose(norms.total, 5e-30, rtol=1e-6)
    assert np.isinf(norms.off_total)
    (clean, _) = gradient_flow.apply_masks(gradients, [tf.constant([True, False]), None])
    np.testing.assert_array_equal(clean, np.float32([3e-30, 0.0]))


def test_momentum_norms_take_missing_slots_as_zero():
    norms = gradient_flow.momentum_norms([GRADIENTS[0], GRADIENTS[1], None], MASKS)
    np.testing.assert_allclose(norms.per_tensor, [13.0, np.sqrt(5.0), 0.0])
    np.testing.assert_allclose(norms.off_per_tensor, [2.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("p", "normalize", "expected"),
    [
        (1, True, ((3 + 4 + 12) / 3 + 6) / 2),
        (2, True, (13 / np.sqrt(3) + 6) / 2),
        (1, False, (19 + 6) / 2),
        (2, False, (13 + 6) / 2),
    ],
)
def test_effective_gradient_flow_of_a_worked_example(p, normalize, expected):
    value = both_modes(lambda g: gradient_flow.effective_gradient_flow(g, MASKS, p, normalize), GRADIENTS)
    assert float(value) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("p", [1, 2])
def test_effective_gradient_flow_does_not_depend_on_width(p):
    gradient, mask = GRADIENTS[0], MASKS[0]
    narrow = gradient_flow.effective_gradient_flow([gradient], [mask], p)
    wide = gradient_flow.effective_gradient_flow([tf.tile(gradient, [1, 8])], [tf.tile(mask, [1, 8])], p)
    assert float(narrow) == pytest.approx(float(wide), rel=1e-14)


def test_a_layer_without_active_weights_adds_nothing_but_counts():
    masks = [MASKS[0], None, tf.zeros((1, 3), tf.bool)]
    value = gradient_flow.effective_gradient_flow(GRADIENTS, masks, p=1)
    assert float(value) == pytest.approx((19 / 3) / 2)


def make_objective():
    """A float64 network with masks on its two kernels, a batch, and masked params."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((5,), dtype="float64")
    hidden = keras.layers.Dense(7, activation="tanh", dtype="float64")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="float64")(hidden))
    rng = np.random.default_rng(0)
    masks = [tf.constant(rng.random(v.shape) < 0.5) if v.shape[1:] else None for v in model.trainable_variables]
    objective = Objective(model)
    params = gradient_flow.apply_masks(objective.params(), masks)
    x, y = tf.constant(rng.normal(size=(8, 5))), tf.constant(rng.integers(0, 3, 8))
    return objective, params, masks, x, y


def test_real_decrease_approaches_the_predicted_one_linearly_in_the_learning_rate():
    objective, params, masks, x, y = make_objective()
    gradients = objective.gradient(params, x, y)

    def error(learning_rate):
        predicted, real = gradient_flow.loss_decrease(objective, params, gradients, masks, learning_rate, x, y)
        return abs(float(real / predicted) - 1)

    errors = [error(rate) for rate in (1e-2, 1e-3, 1e-4)]
    assert errors[0] > 1e-4 and errors[2] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_predicted_decrease_is_the_squared_active_norm_and_graph_agrees():
    objective, params, masks, x, y = make_objective()
    gradients = objective.gradient(params, x, y)
    step = both_modes(
        lambda p, g: gradient_flow.loss_decrease(objective, p, g, masks, 0.3, x, y),
        params,
        gradients,
    )
    norm = gradient_flow.norms(gradients, masks).total
    active = gradient_flow.apply_masks(gradients, masks)
    assert float(step.predicted) == pytest.approx(0.3 * float(norm) ** 2, rel=1e-14)
    moved = [p - 0.3 * g for p, g in zip(params, active, strict=True)]
    expected = objective.mean_loss(params, x, y) - objective.mean_loss(moved, x, y)
    assert float(step.real) == pytest.approx(float(expected), rel=1e-12)


def test_distance_of_a_worked_example():
    params = [tf.constant([[1.0, 0.0]]), tf.constant([3.0, 4.0]), tf.constant([0.0])]
    reference = [tf.constant([[0.0, 2.0]]), tf.constant([-3.0, -4.0]), tf.constant([0.0])]
    result = both_modes(gradient_flow.distance, params, reference)
    np.testing.assert_allclose(result.l2_per_tensor, [np.sqrt(5.0), 10.0, 0.0])
    np.testing.assert_allclose(result.l2, np.sqrt(105.0))
    np.testing.assert_allclose(result.cosine_per_tensor, [1.0, 2.0, 0.0])
    np.testing.assert_allclose(result.cosine, 1 + 25 / np.sqrt(26 * 29))


def test_distance_to_itself_is_zero_and_cosine_ignores_scale():
    rng = np.random.default_rng(1)
    params = [tf.constant(rng.normal(size=s), tf.float32) for s in [(40, 30), (30,)]]
    same = gradient_flow.distance(params, params)
    assert float(same.l2) == 0 and float(same.cosine) < 1e-15
    doubled = gradient_flow.distance([2 * p for p in params], params)
    assert float(doubled.cosine) < 1e-15
    norm = np.sqrt(sum(np.sum(p.numpy().astype(np.float64) ** 2) for p in params))
    assert float(doubled.l2) == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("zero_side", [0, 1])
def test_cosine_distance_of_the_zero_vector_is_zero(zero_side):
    pair = [[tf.constant([1.0, 2.0])], [tf.constant([1.0, 2.0])]]
    pair[zero_side] = [tf.zeros(2)]
    result = gradient_flow.distance(*pair)
    assert float(result.cosine) == 0 and float(result.cosine_per_tensor[0]) == 0
    assert float(result.l2) == pytest.approx(np.sqrt(5.0))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="3 tensors and 2 mask entries"):
        gradient_flow.norms(GRADIENTS, MASKS[:2])
    with pytest.raises(ValueError, match="at least one tensor"):
        gradient_flow.norms([], [])
    with pytest.raises(ValueError, match="p must be 1 or 2"):
        gradient_flow.effective_gradient_flow(GRADIENTS, MASKS, p=3)
    with pytest.raises(ValueError, match="at least one masked layer"):
        gradient_flow.effective_gradient_flow(GRADIENTS[1:2], MASKS[1:2])
    with pytest.raises(ValueError, match="reference entries"):
        gradient_flow.distance(GRADIENTS, GRADIENTS[:1])
