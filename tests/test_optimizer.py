"""The contract of every updater with every inner optimizer, in every way TensorFlow runs a step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import schedules, updaters
from sparse_lib.masks import Masks
from sparse_lib.optimizer import Growth, SparseOptimizer

CUBIC = schedules.PolynomialSparsity(initial=0.3, final=0.8, begin=2, end=8)
UPDATERS = {
    "static": updaters.Static(),
    "prune": updaters.Prune(sparsity=CUBIC, begin_step=2, end_step=8, frequency=2),
    "prune_global": updaters.Prune(sparsity=CUBIC, scope="global", begin_step=2, end_step=8, frequency=2),
    "set": updaters.SET(end_step=10, frequency=2),
    "rigl": updaters.RigL(end_step=10, frequency=2),
    "rigl_after": updaters.RigL(end_step=10, frequency=2, replaces_step=False),
    "rigl_random": updaters.RigL(end_step=10, frequency=2, growth_init="random"),
    "rigl_gradient": updaters.RigL(end_step=10, frequency=2, growth_init="gradient"),
    "rigl_initial": updaters.RigL(end_step=10, frequency=2, growth_init="initial", reinit_regrown=True),
    "rigl_inverted": updaters.RigLInverted(end_step=10, frequency=2),
    "rigl_snip": updaters.RigLSNIP(end_step=10, frequency=2),
    "rigl_auto": updaters.RigLAuto(end_step=10, frequency=2),
    "snfs": updaters.SNFS(end_step=10, frequency=2),
    "snfs_per_layer": updaters.SNFS(end_step=10, frequency=2, redistribute=False),
    "mest": updaters.MEST(end_step=10, frequency=2),
    "mest_soft": updaters.MEST(end_step=10, frequency=2, soft_bound=True),
    "granet": updaters.GraNet(sparsity=CUBIC, begin_step=2, end_step=8, frequency=2),
    "topkast": updaters.TopKAST(),
    "dnw": updaters.DNW(),
}
INNER = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "nesterov": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.5),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, clipnorm=1.0),
}
NON_INCREASING = {"prune", "prune_global", "granet"}
TOTAL_CONSTANT = {"snfs"}
STEPS = 11


def data(steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(steps, 16, 8)).astype("float32"), rng.integers(0, 4, (steps, 16))


def build(updater: str, inner: str, **kwargs) -> tuple[keras.Model, SparseOptimizer]:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(12, activation="relu", name="hidden"),
            keras.layers.Dense(4, name="logits"),
        ]
    )
    kernels = [v for v in model.trainable_variables if len(v.shape) == 2]
    rng = np.random.default_rng(2)
    masks = Masks(kernels, [tf.constant(rng.random(k.shape) < 0.5) for k in kernels], ["hidden", "logits"])
    optimizer = SparseOptimizer(INNER[inner](), masks, UPDATERS[updater], **kwargs)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def one_step(model: keras.Model, optimizer: SparseOptimizer, replicas: int = 1):
    def step(x, y):
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True)
            loss = tf.reduce_mean(losses) / replicas
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    return step


def check_invariants(optimizer: SparseOptimizer, updater: str, start: list[int], before: list[int]) -> list[int]:
    masks = optimizer.masks
    masks.check()
    active = masks.active()
    for (kernel, mask), slots in zip(masks, optimizer.slots, strict=True):
        assert mask.dtype == tf.bool
        assert mask.shape == kernel.shape
        assert not mask.trainable
        if not optimizer.updater.has_reserve:
            for slot in slots:
                assert not np.any(slot.numpy()[~mask.numpy()]), "a slot is not zero off the mask"
    if updater in NON_INCREASING:
        assert all(now <= then for now, then in zip(active, before, strict=True)) or updater != "prune"
        assert sum(active) <= sum(before)
    elif updater in TOTAL_CONSTANT:
        assert sum(active) == sum(start)
    elif updater == "mest_soft":
        assert all(now >= first for now, first in zip(active, start, strict=True))
    else:
        assert active == start
    return active


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("updater", UPDATERS)
def test_contract(updater: str, inner: str, mode: str) -> None:
    model, optimizer = build(updater, inner)
    step = one_step(model, optimizer)
    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla")
    start = active = optimizer.masks.active()
    changed = False
    for x, y in zip(*data(), strict=True):
        old = [m.numpy() for m in optimizer.masks.variables_by_kernel]
        step(tf.constant(x), tf.constant(y))
        active = check_invariants(optimizer, updater, start, active)
        changed |= any(
            (a != b.numpy()).any() for a, b in zip(old, optimizer.masks.variables_by_kernel, strict=True)
        )
    assert int(optimizer.iterations.numpy()) == STEPS
    assert changed == (updater != "static")
