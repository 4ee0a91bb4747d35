"""What SparseOptimizer does to weights, slots and masks, against golden values and plain NumPy."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import schedules, updaters
from sparse_lib.masks import Masks
from sparse_lib.optimizer import Growth, SparseOptimizer

SGD = keras.optimizers.SGD
HALF = schedules.Constant(0.5)


def one_kernel(mask, weight, inner, updater=None, **kwargs) -> tuple[keras.Variable, SparseOptimizer]:
    """A kernel without a model, which the tests give their gradients."""
    kernel = keras.Variable(np.asarray(weight, "float32"), name="kernel")
    masks = Masks([kernel], [tf.constant(np.asarray(mask) > 0)])
    optimizer = SparseOptimizer(inner, masks, updater, **kwargs)
    optimizer.build([kernel])
    return kernel, optimizer


def mask_of(optimizer: SparseOptimizer, index: int = 0) -> np.ndarray:
    return optimizer.masks.values()[index].numpy()


# --- golden values ---


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrowStored(updaters.SET):
    """SET with given noise."""

    scores: Any = None

    def grow_score(self, kernel, seed):
        return next(tf.constant(s) for s in self.scores if s.shape == tuple(kernel.weight.shape))


def golden_updater(algorithm: str, fraction: float, scores: list) -> updaters.DropAndGrow:
    fraction = schedules.Constant(fraction)
    if algorithm == "set":
        return GrowStored(drop_fraction=fraction, scores=[np.array(s, "float32") for s in scores])
    return {"rigl": updaters.RigL, "rigl_inverted": updaters.RigLInverted}[algorithm](drop_fraction=fraction)


@pytest.mark.parametrize("index", range(3))
def test_golden_update_of_a_model(golden, index):
    case = golden("rigl_tiny_model")["cases"][index]
    before, after = case["before"], case["after"]
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(3)])
    model.set_weights([np.array(v, "float32") for pair in zip(before["w"], before["b"], strict=True) for v in pair])
    kernels = model.trainable_variables[::2]
    masks = Masks(kernels, [tf.constant(np.array(m) > 0) for m in before["mask"]])
    updater = golden_updater(case["algo"], case["drop_fraction"], case["grow_scores"])
    optimizer = SparseOptimizer(SGD(0.1, momentum=0.9), masks, updater)
    optimizer.build(model.trainable_variables)
    for (slot,), mask, momentum in zip(optimizer.slots, masks.values(), before["momentum"][::2], strict=True):
        slot.assign(tf.where(mask, momentum, 0.0))
    with tf.GradientTape() as tape:
        logits = model(tf.constant(case["x"]))
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(case["y"], logits)
        loss = tf.reduce_sum(losses)
    np.testing.assert_allclose(losses, case["loss_vector"], rtol=1e-5)
    optimizer.mask_step(optimizer.reduce(tape.gradient(loss, model.trainable_variables)))
    for i, kernel in enumerate(kernels):
        mask = np.array(after["mask"][i]) > 0
        np.testing.assert_array_equal(mask_of(optimizer, i), mask)
        np.testing.assert_array_equal(kernel.numpy(), np.where(mask, after["w"][i], 0).astype("float32"))
        slot = np.where(mask, after["momentum"][2 * i], 0).astype("float32")
        np.testing.assert_array_equal(optimizer.slots[i][0].numpy(), slot)


def test_golden_steps_of_rigl(golden):
    (case,) = golden("rigl_steps")["cases"]
    calls = case["calls"]
    x, y = tf.constant(case["x"]), tf.constant(case["y"])
    updater = updaters.RigL(drop_fraction=schedules.Constant(case["drop_fraction"]))
    first = calls[0]
    kernel, optimizer = one_kernel(first["mask"], first["w"], SGD(case["lr"], momentum=case["momentum_coef"]), updater)
    for call in calls:
        before, after = np.array(call["mask"]) > 0, np.array(call["mask_after"]) > 0
        np.testing.assert_array_equal(mask_of(optimizer), before)
        np.testing.assert_allclose(kernel.numpy(), np.where(before, call["w"], 0), rtol=1e-5, atol=1e-6)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ kernel - y) ** 2)
        grads = optimizer.reduce(tape.gradient(loss, [kernel]))
        np.testing.assert_allclose(grads[0], call["dense_grad_wrt_masked_w"], rtol=1e-4, atol=1e-5)
        # There, a mask update leaves the step count alone; here it counts, so the calls are told apart by hand.
        is_update = call["step_after"] == call["step_before"]
        (optimizer.mask_step if is_update else optimizer.train_step)(grads)
        np.testing.assert_array_equal(mask_of(optimizer), after)
        np.testing.assert_allclose(kernel.numpy(), np.where(after, call["w_after"], 0), rtol=1e-5, atol=1e-6)
        slot = -case["lr"] * np.where(after, call["momentum_after"], 0)
        np.testing.assert_allclose(optimizer.slots[0][0].numpy(), slot, rtol=1e-4, atol=1e-6)
    assert [c["step_after"] == c["step_before"] for c in calls] == [True, False, False, True]


@pytest.mark.parametrize("reinit", [False, True])
def test_golden_slots(golden, reinit):
    cases = golden("mask_updates")["cases"]
    case = next(c for c in cases if c["reinit_when_same"] is reinit and c["drop_fraction"] > 0)
    scores = Growth([tf.constant(case["score_grow"])])
    updater = updaters.RigL(drop_fraction=schedules.Constant(case["drop_fraction"]), reinit_regrown=reinit)
    kernel, optimizer = one_kernel(
        case["mask"], case["var"], SGD(0.1, momentum=0.9), updater, growth_gradient=lambda: scores
    )
    optimizer.slots[0][0].assign(tf.where(case["mask"] == np.float32(1), case["momentum"], 0.0))
    optimizer.mask_step(optimizer.reduce([tf.zeros_like(kernel)]))
    mask = np.array(case["new_mask"]) > 0
    np.testing.assert_array_equal(mask_of(optimizer), mask)
    np.testing.assert_array_equal(optimizer.slots[0][0].numpy(), np.where(mask, case["new_momentum"], 0).astype("f"))


# --- training steps ---


@pytest.mark.parametrize("penalty", ["clipnorm", "global_clipnorm"])
def test_norms_are_clipped_on_the_masked_gradient(penalty):
    kernel, optimizer = one_kernel([1, 1, 0], [0, 0, 0], SGD(1.0, **{penalty: 1.0}))
    optimizer.apply([tf.constant([3.0, 4.0, 1e6])])
    np.testing.assert_allclose(kernel.numpy(), [-0.6, -0.8, 0], rtol=1e-6)


def test_infinite_gradients_off_the_mask_do_no_harm():
    kernel, optimizer = one_kernel([1, 0, 0], [1, 0, 0], keras.optimizers.Adam(0.1))
    optimizer.apply([tf.constant([1.0, np.inf, np.nan])])
    assert kernel.numpy()[0] != 1
    assert kernel.numpy()[1:].tolist() == [0, 0]
    assert all(np.all(np.isfinite(slot.numpy())) for slot in optimizer.slots[0])


def test_decoupled_decay_shrinks_active_weights_alone():
    kernel, optimizer = one_kernel([1, 0, 1], [2, 9, -4], keras.optimizers.AdamW(0.1, weight_decay=0.5))
    for _ in range(2):
        optimizer.apply([tf.constant([0.0, 5.0, 0.0])])
    np.testing.assert_allclose(kernel.numpy(), [2 * 0.95**2, 0, -4 * 0.95**2], rtol=1e-6)


def test_constraints_cannot_fill_the_mask():
    kernel, optimizer = one_kernel([1, 0], [1, 0], SGD(0.1))
    kernel.constraint = lambda w: w + 1
    optimizer.apply([tf.constant([0.0, 0.0])])
    assert kernel.numpy().tolist() == [2, 0]


def test_dense_variables_train_as_without_masks():
    bias, kernel, plain = (keras.Variable(np.ones(2, "float32")) for _ in range(3))
    optimizer = SparseOptimizer(keras.optimizers.Adam(0.1), Masks([kernel], [tf.constant([True, False])]))
    inner = keras.optimizers.Adam(0.1)
    for gradient in ([1.0, 2.0], [-1.0, 0.5]):
        optimizer.apply([tf.constant(gradient), tf.constant([1.0, 1.0])], [bias, kernel])
        inner.apply([tf.constant(gradient)], [plain])
    np.testing.assert_array_equal(bias.numpy(), plain.numpy())


def test_a_full_static_mask_is_the_inner_optimizer():
    makers = [lambda: SGD(0.1, momentum=0.9, nesterov=True), lambda: keras.optimizers.RMSprop(0.1)]
    for make in makers:
        kernel, optimizer = one_kernel([1, 1], [1, -2], make())
        plain, inner = keras.Variable(np.float32([1, -2])), make()
        for gradient in ([1.0, 2.0], [-1.0, 0.5], [3.0, 3.0]):
            optimizer.apply([tf.constant(gradient)])
            inner.apply([tf.constant(gradient)], [plain])
        np.testing.assert_array_equal(kernel.numpy(), plain.numpy())


def test_no_masks_is_the_inner_optimizer():
    kernel, plain = (keras.Variable(np.float32([1, -2])) for _ in range(2))
    optimizer, inner = SparseOptimizer(SGD(0.1, momentum=0.9), Masks([])), SGD(0.1, momentum=0.9)
    for gradient in ([1.0, 2.0], [-1.0, 0.5]):
        optimizer.apply([tf.constant(gradient)], [kernel])
        inner.apply([tf.constant(gradient)], [plain])
    np.testing.assert_array_equal(kernel.numpy(), plain.numpy())


def test_averages_of_weights_stay_sparse():
    inner = SGD(1.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    updater = updaters.RigL(drop_fraction=HALF, frequency=2)
    kernel, optimizer = one_kernel([1, 1, 0, 0], [4, 1, 0, 0], inner, updater)
    for step in range(8):
        optimizer.apply([tf.constant([-1.0, -1.0, 1.0 + step, 2.0])])
        optimizer.masks.check()
        assert optimizer.masks.active() == [2]
    assert optimizer.masks.exploration_rate()[0] > 0.5
    optimizer.finalize_variable_values([kernel])
    optimizer.masks.check()
    np.testing.assert_array_equal(kernel.numpy(), optimizer.slots_by_name["average"][0].numpy())


def test_final_averages_are_masked():
    inner = SGD(1.0, use_ema=True, ema_momentum=0.5)
    kernel, optimizer = one_kernel([1, 0], [1, 0], inner)
    optimizer.apply([tf.constant([1.0, 1.0])])
    optimizer.slots_by_name["average"][0].assign([7.0, 7.0])
    optimizer.finalize_variable_values([kernel])
    assert kernel.numpy().tolist() == [7, 0]


# --- mask updates ---


def test_an_update_takes_the_place_of_a_step_or_follows_it():
    gradient = [tf.constant([1.0, 1.0, 5.0])]
    for replaces, expected in ((True, [2, 0, 0]), (False, [1.9, 0, 0])):
        updater = updaters.RigL(drop_fraction=HALF, frequency=1, begin_step=0, replaces_step=replaces)
        kernel, optimizer = one_kernel([1, 1, 0], [2, 1, 0], SGD(0.1, momentum=0.5), updater)
        optimizer.apply(gradient)
        assert mask_of(optimizer).tolist() == [True, False, True]
        np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-6)
        np.testing.assert_allclose(optimizer.slots[0][0].numpy(), [0 if replaces else -0.1, 0, 0], rtol=1e-6)
        assert int(optimizer.iterations.numpy()) == 1


def test_train_step_and_mask_step_make_up_a_step():
    rng = np.random.default_rng(0)
    grads = [tf.constant(rng.normal(size=8), tf.float32) for _ in range(9)]
    for replaces in (True, False):
        updater = updaters.SET(drop_fraction=HALF, frequency=3, replaces_step=replaces, growth_init="random")
        weight, mask = rng.normal(size=8), np.arange(8) < 4
        whole, at_once = one_kernel(mask, weight, SGD(0.1, momentum=0.9), updater)
        parts, in_parts = one_kernel(mask, weight, SGD(0.1, momentum=0.9), updater)
        for step, gradient in enumerate(grads):
            at_once.apply([gradient])
            reduced = in_parts.reduce([gradient])
            is_update = updater.schedule.is_update_step(step)
            if not (is_update and replaces):
                in_parts.train_step(reduced)
            if is_update:
                in_parts.mask_step(reduced)
        np.testing.assert_array_equal(whole.numpy(), parts.numpy())
        assert int(in_parts.iterations.numpy()) == int(at_once.iterations.numpy()) == 9


def test_slots_of_what_grew_start_where_the_optimizer_starts_them():
    updater = updaters.RigL(drop_fraction=HALF, frequency=2)
    inner = keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.25)
    _, optimizer = one_kernel([1, 1, 0, 0], [4, 1, 0, 0], inner, updater)
    gradient = [tf.constant([2.0, 2.0, 9.0, 1.0])]
    for _ in range(2):
        optimizer.apply(gradient)
    (slot,) = optimizer.slots[0]
    np.testing.assert_allclose(slot.numpy(), [8.25, 8.25, 0.25, 0.25])
    optimizer.apply(gradient)
    assert mask_of(optimizer).tolist() == [True, False, True, False]
    np.testing.assert_allclose(slot.numpy(), [8.25, 0.25, 0.25, 0.25])


def test_explored_weights_are_remembered():
    updater = updaters.RigL(drop_fraction=HALF, frequency=1)
    _, optimizer = one_kernel([1, 1, 0, 0], [4, 1, 0, 0], SGD(0.1), updater)
    rates = []
    for gradient in ([0.0] * 4, [0, 0, 1.0, 0], [0, 0, 0, 1.0], [0, 1.0, 0, 0]):
        optimizer.apply([tf.constant(gradient)])
        rates.append(optimizer.masks.exploration_rate()[0])
    assert rates == [0.5, 0.75, 1.0, 1.0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Witness(updaters.RigL):
    """RigL that tells what it sees."""

    seen: list = dataclasses.field(default_factory=list)

    def update(self, kernels, context):
        self.seen.append((int(context.step), [k.gradient.numpy() for k in kernels]))
        return super().update(kernels, context)


@pytest.mark.parametrize("replaces", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_averaged_growth_is_the_gradient_of_the_batches_together(k, replaces):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4, 6)).astype("float32"), rng.normal(size=(9, 4, 2)).astype("float32")
    updater = Witness(drop_fraction=schedules.Constant(0.0), frequency=3, begin_step=2, replaces_step=replaces)
    # With a learning rate of 0 all batches see the same weights.
    mask, weight = rng.random((6, 2)) < 0.5, rng.normal(size=(6, 2))
    kernel, optimizer = one_kernel(mask, weight, SGD(0.0), updater, growth_gradient=k)

    def gradient(first: int, last: int) -> tf.Tensor:
        inputs, targets = (tf.constant(np.concatenate(part[first : last + 1])) for part in (x, y))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((inputs @ kernel - targets) ** 2)
        return tape.gradient(loss, kernel)

    for step in range(9):
        optimizer.apply([gradient(step, step)])
    assert [step for step, _ in updater.seen] == [2, 5, 8]
    for step, (seen,) in updater.seen:
        np.testing.assert_allclose(seen, gradient(step + 1 - k, step), rtol=1e-4, atol=1e-6)


def test_averaged_growth_before_there_were_k_batches():
    updater = Witness(drop_fraction=schedules.Constant(0.0), frequency=5, begin_step=1)
    _, optimizer = one_kernel([1, 0], [1, 0], SGD(0.0), updater, growth_gradient=4)
    for value in range(7):
        optimizer.apply([tf.constant([0.0, float(value)])])
    assert [(step, float(seen[1])) for step, (seen,) in updater.seen] == [(1, 0.5), (6, 4.5)]


def test_growth_from_elsewhere():
    elsewhere = Growth([tf.constant([0.0, 0.0, 1.0, 2.0])])
    updater = updaters.RigL(drop_fraction=HALF, frequency=1, begin_step=0)
    _, optimizer = one_kernel([1, 1, 0, 0], [4, 1, 0, 0], SGD(0.1), updater, growth_gradient=lambda: elsewhere)
    optimizer.apply([tf.constant([0.0, 0.0, 9.0, 0.0])])
    assert mask_of(optimizer).tolist() == [True, False, False, True]


def test_products_reach_the_updater():
    given = Growth([tf.constant([0.0, 0.0, 1.0, 2.0])], [tf.constant([-3.0, 1.0, 0.0, 0.0])])
    updater = updaters.RigLGraSP(drop_fraction=HALF, frequency=1, begin_step=0)
    _, optimizer = one_kernel([1, 1, 0, 0], [4, 1, 0, 0], SGD(0.1), updater, growth_gradient=lambda: given)
    optimizer.apply([tf.zeros(4)])
    assert mask_of(optimizer).tolist() == [False, True, False, True]


def test_momentum_of_snfs_sees_every_dense_gradient():
    updater = updaters.SNFS(drop_fraction=HALF, frequency=2, momentum=0.5)
    kernel, optimizer = one_kernel([1, 1, 0, 0], [4, 1, 0, 0], SGD(0.1), updater)
    rng = np.random.default_rng(0)
    momentum = np.zeros(4, "float32")
    for _ in range(5):
        gradient = rng.normal(size=4).astype("float32")
        momentum = 0.5 * momentum + 0.5 * gradient
        optimizer.apply([tf.constant(gradient)])
        np.testing.assert_allclose(optimizer.variables[-1].numpy(), momentum, rtol=1e-6)
    optimizer.masks.check()
    assert kernel.numpy().any()


# --- weights that train off the mask ---


def regression() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 6))
    return x, x @ rng.normal(size=(6, 3))


def top(theta: np.ndarray, k: int) -> np.ndarray:
    mask = np.zeros(theta.size, bool)
    mask[np.argsort(-np.abs(theta).ravel(), kind="stable")[:k]] = True
    return mask.reshape(theta.shape)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_dnw_is_straight_through_training(momentum):
    x, y = regression()
    rng = np.random.default_rng(4)
    theta, mask = rng.normal(size=(6, 3)), rng.random((6, 3)) < 0.4
    active = int(mask.sum())
    kernel, optimizer = one_kernel(mask, theta, SGD(0.05, momentum=momentum), updaters.DNW())
    velocity = np.zeros_like(theta)
    changes = 0
    for _ in range(8):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.constant(x, tf.float32) @ kernel - tf.constant(y, tf.float32)) ** 2)
        optimizer.apply(tape.gradient(loss, [kernel]))
        # The reference: forward with the masked weights, backward to all of them.
        gradient = 2 * x.T @ (x @ np.where(mask, theta, 0) - y) / y.size
        velocity = momentum * velocity - 0.05 * gradient
        theta = theta + velocity
        new = top(theta, active)
        changes += int((new != mask).sum())
        mask = new
        np.testing.assert_array_equal(mask_of(optimizer), mask)
        np.testing.assert_allclose(kernel.numpy(), np.where(mask, theta, 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(optimizer.variables[-2].numpy(), np.where(mask, 0, theta), rtol=1e-4, atol=1e-5)
    assert changes > 0


def test_topkast_is_its_reference():
    x, y = regression()
    rng = np.random.default_rng(5)
    theta = rng.normal(size=(6, 3))
    mask = top(theta, 6)
    kernel, optimizer = one_kernel(
        mask, theta, SGD(0.1, momentum=0.5), updaters.TopKAST(extra_density=0.25, penalty=0.02)
    )
    velocity, trained = np.zeros_like(theta), mask
    for _ in range(10):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.constant(x, tf.float32) @ kernel - tf.constant(y, tf.float32)) ** 2)
        optimizer.apply(tape.gradient(loss, [kernel]))
        gradient = 2 * x.T @ (x @ np.where(mask, theta, 0) - y) / y.size
        gradient += 0.02 * np.where(mask, theta, theta / (6 / 18))
        velocity = 0.5 * velocity - 0.1 * np.where(trained, gradient, 0)
        theta = theta + velocity
        mask, trained = top(theta, 6), top(theta, 6 + 4)
        # What leaves the larger set is forgotten, its slots with it.
        theta, velocity = np.where(trained, theta, 0), np.where(trained, velocity, 0)
        np.testing.assert_array_equal(mask_of(optimizer), mask)
        np.testing.assert_allclose(kernel.numpy(), np.where(mask, theta, 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(optimizer.variables[-2].numpy(), np.where(mask, 0, theta), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(optimizer.slots[0][0].numpy(), velocity, rtol=1e-4, atol=1e-5)
