"""The callback that follows the largest eigenvalue: right, within its time, and without a trace in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.curvature import TopEigenvalue
from sparse_lib.curvature import callback as callback_module
from sparse_lib.masks import Masks
from tests.curvature.known import plain_hessian
from tests.replicas import two_replicas

X = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
Y = np.argmax(X[:, :3] + 0.1 * X[:, 3:4], axis=1)


def build(learning_rate=0.1, stateful=True):
    """A classifier, with batch norm and dropout if it is to have state."""
    keras.utils.set_random_seed(1)
    between = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.3, seed=2)] if stateful else []
    hidden, logits = keras.layers.Dense(6, "tanh", name="hidden"), keras.layers.Dense(3, name="logits")
    model = keras.Sequential([keras.Input((5,)), hidden, *between, logits])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.5), loss, jit_compile=False)
    return model


def fit(model, *callbacks, epochs=3):
    return model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))


@pytest.mark.slow
def test_largest_eigenvalue_at_the_end_and_in_the_history():
    model = build()
    follow = TopEigenvalue((X, Y), batch_size=24, share=1.0, steps=12)
    history = fit(model, follow, epochs=4)
    last = follow.measure(step=16)
    top = np.linalg.eigvalsh(plain_hessian(model, X, Y))[-1]
    assert last.value == pytest.approx(top, rel=1e-4)
    assert abs(last.value - top) <= last.residual + 1e-5 * top
    assert last == follow.measurements[-1] and last.step == 16
    assert history.history["lambda_max"] == pytest.approx(
        [[m for m in follow.measurements if m.step <= 4 * epoch][-1].value for epoch in (1, 2, 3, 4)]
    )


@pytest.mark.slow
def test_a_warm_start_needs_few_steps():
    model = build(learning_rate=1e-3)
    follow = TopEigenvalue((X, Y), share=1.0, steps=2)
    fit(model, follow, epochs=8)
    top = np.linalg.eigvalsh(plain_hessian(model, X, Y))[-1]
    assert follow.measure(32).value == pytest.approx(top, rel=1e-3)
    cold = TopEigenvalue((X, Y), steps=2)
    cold.set_model(model)
    assert cold.measure(32).value < 0.99 * top


def test_training_is_the_same_with_and_without():
    alone, followed = build(), build()
    fit(alone)
    follow = TopEigenvalue((X, Y), share=1.0)
    fit(followed, follow)
    assert len(follow.measurements) > 1
    for one, other in zip(alone.variables, followed.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    for one, other in zip(alone.optimizer.variables, followed.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_only_active_weights_count_also_after_the_masks_change():
    model = build()
    kernels = [model.get_layer("hidden").kernel, model.get_layer("logits").kernel]
    masks = Masks(kernels, [np.random.default_rng(i).random(k.shape) < 0.5 for i, k in enumerate(kernels)])
    follow = TopEigenvalue((X, Y), masks=masks, steps=20)
    follow.set_model(model)
    for density in (0.5, 0.3):
        masks.assign([np.random.default_rng(7).random(k.shape) < density for k in kernels])
        aligned = masks.aligned(model.trainable_variables)
        flat = [
            np.ones(v.shape, bool) if m is None else m for v, m in zip(model.trainable_variables, aligned, strict=True)
        ]
        chosen = np.concatenate([np.ravel(f) for f in flat])
        top = np.linalg.eigvalsh(plain_hessian(model, X, Y)[np.ix_(chosen, chosen)])[-1]
        assert follow.measure(0).value == pytest.approx(top, rel=1e-4)


class Clock:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(callback_module.time, "perf_counter", lambda: self.now)


def test_time_stays_within_its_share(monkeypatch):
    clock = Clock(monkeypatch)
    follow = TopEigenvalue((X, Y), share=0.1)
    follow.set_model(build())
    seconds = []

    def measure(step):
        # The first takes 5 s more, to compile.
        clock.now += 2.0 if seconds else 7.0
        follow.measurements.append(callback_module.Sharpness(step, 1.0, 0.0, 2.0))
        seconds.append(clock.now)

    monkeypatch.setattr(follow, "measure", measure)
    follow.on_train_begin()
    for _ in range(4000):
        clock.now += 0.1
        follow.on_train_batch_end(0)
        spent = 7.0 + 2.0 * (len(seconds) - 1)
        assert len(seconds) == 1 or spent <= 0.1 * (clock.now - 100) + 1e-9
    elapsed = clock.now - 100
    assert len(seconds) > 10
    assert 0.08 * elapsed < 7.0 + 2.0 * (len(seconds) - 1) <= 0.1 * elapsed


def test_training_that_diverges_is_not_stopped():
    model = build()
    model.set_weights([np.full_like(w, np.nan) if w.ndim == 2 else w for w in model.get_weights()])
    follow = TopEigenvalue((X, Y))
    fit(model, follow, epochs=1)
    assert np.isnan(follow.measurements[0].value)


@pytest.mark.slow
def test_two_replicas():
    # Without batch norm, of which Keras keeps one average a replica.
    with two_replicas().scope():
        model = build(stateful=False)
    follow = TopEigenvalue((X, Y), batch_size=16, share=1.0, steps=12)
    fit(model, follow, epochs=1)
    top = np.linalg.eigvalsh(plain_hessian(model, X, Y))[-1]
    assert follow.measure(4).value == pytest.approx(top, rel=1e-3)


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.5}, {"steps": 0}])
def test_bad_input(options):
    with pytest.raises(ValueError, match="share must be in"):
        TopEigenvalue((X, Y), **options)


def test_own_loss():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    follow = TopEigenvalue((X, Y), loss=lambda y, z: (tf.cast(y, z.dtype) - z[:, 0]) ** 2, steps=6)
    follow.set_model(model)
    ones = np.column_stack([X, np.ones(64)])
    assert follow.measure(0).value == pytest.approx(2 * np.linalg.eigvalsh(ones.T @ ones / 64)[-1], rel=1e-5)
