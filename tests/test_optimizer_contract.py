"""The contract of every updater with every inner optimizer, in every way TensorFlow runs a step."""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import schedules, updaters
from sparse_lib.masks import Masks
from sparse_lib.optimizer import Growth, SignIn, SparseOptimizer
from sparse_lib.structures import NM, UNSTRUCTURED, Block, Channel, ConstantFanIn, Structure
from tests.replicas import two_replicas

CUBIC = schedules.PolynomialSparsity(initial=0.3, final=0.8, begin=2, end=8)
EVERY_2 = {"end_step": 10, "frequency": 2}
UPDATERS = {
    "static": updaters.Static(),
    "static_reinit": updaters.StaticReinit(**EVERY_2, growth_init="initial_dist_2"),
    "prune": updaters.Prune(sparsity=CUBIC, begin_step=2, end_step=8, frequency=2),
    "prune_global": updaters.Prune(sparsity=CUBIC, scope="global", begin_step=2, end_step=8, frequency=2),
    "set": updaters.SET(**EVERY_2),
    "rigl": updaters.RigL(**EVERY_2),
    "rigl_after_step": updaters.RigL(**EVERY_2, replaces_step=False),
    "rigl_random": updaters.RigL(**EVERY_2, growth_init="random"),
    "rigl_gradient": updaters.RigL(**EVERY_2, growth_init="gradient"),
    "rigl_initial": updaters.RigL(**EVERY_2, growth_init="initial", reinit_regrown=True),
    "rigl_averaged": updaters.RigL(**EVERY_2),
    "rigl_inverted": updaters.RigLInverted(**EVERY_2),
    "rigl_snip": updaters.RigLSNIP(**EVERY_2),
    "rigl_grasp": updaters.RigLGraSP(**EVERY_2),
    "rigl_auto": updaters.RigLAuto(**EVERY_2, coefficient=30.0),
    "snfs": updaters.SNFS(**EVERY_2),
    "snfs_per_layer": updaters.SNFS(**EVERY_2, redistribute=False),
    "mest": updaters.MEST(**EVERY_2),
    "mest_soft": updaters.MEST(**EVERY_2, soft_bound=True),
    "cht": updaters.CHT(**EVERY_2),
    "chts": updaters.CHTs(**EVERY_2, removal="relative_importance"),
    # Phases of two steps: pruned at 2 and 6, all active at 4.
    "acdc": updaters.ACDC(sparsity=schedules.Constant(0.5), begin_step=2, end_step=6, frequency=2),
    "granet": updaters.GraNet(sparsity=CUBIC, begin_step=2, end_step=8, frequency=2),
    "topkast": updaters.TopKAST(),
    "dnw": updaters.DNW(),
    # An ablation threshold that small kernels meet; both kernels take part.
    "srigl": updaters.SRigL(**EVERY_2, drop_fraction=0.6, ablation_threshold=0.9, never_ablated=()),
}
STRUCTURES = (NM(2, 4), Block(2, 2), Channel(), ConstantFanIn())
# These change how many weights a kernel has, which only blocks allow.
NEED_FREEDOM = ("snfs", "mest_soft")
GRADUAL = ("prune", "prune_global", "granet", "acdc")
# These meet graphs in the fast tests: a step that a mask update replaces, state of the updater, a reserve.
KINDS = ("rigl", "snfs", "topkast")
# Those that do with replicas what no other does: draw, average, train a reserve.
REPLICATED = ("set", "rigl_averaged", "topkast")
INNER = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "nesterov": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.5),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, clipnorm=1.0),
}
OURS = {"SignIn": functools.partial(SignIn, momentum=0.9, reset_every=3)}
# Everything else that Keras has.
FURTHER = OURS | {
    name: getattr(keras.optimizers, name)
    for name in (
        "Adagrad",
        "Adadelta",
        "Adamax",
        "Nadam",
        "Ftrl",
        "Lion",
        "Lamb",
        "Adafactor",
        "Muon",
        "ScheduleFreeAdamW",
    )
    if hasattr(keras.optimizers, name)
}
MODES = ("eager", "graph", "xla", "replicas")
STRATEGIES = {"replicas": two_replicas, "one device": lambda: tf.distribute.OneDeviceStrategy("/cpu:0")}
STEPS = 11
DENSITY = 0.5


def batches() -> list[tuple[tf.Tensor, tf.Tensor]]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(STEPS, 16, 8)), rng.integers(0, 4, (STEPS, 16))
    return [(tf.constant(a, tf.float32), tf.constant(b)) for a, b in zip(x, y, strict=True)]


def make_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(12, activation="tanh", name="hidden"),
            keras.layers.Dense(4, name="logits"),
        ]
    )


def mean_loss(model: keras.Model, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True))


def held_out(model: keras.Model, kernels: list[keras.Variable]) -> Callable[[], Growth]:
    x, y = batches()[-1]

    def growth() -> Growth:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = mean_loss(model, x, y)
            gradients = inner.gradient(loss, kernels)
            product = tf.add_n([tf.reduce_sum(g * tf.stop_gradient(g)) for g in gradients])
        return Growth(gradients, outer.gradient(product, kernels))

    return growth


def test_every_updater_of_the_registry_has_a_row():
    assert set(updaters.REGISTRY.values()) <= {type(updater) for updater in UPDATERS.values()}


def suits(updater: str, structure: Structure) -> bool:
    if updater == "srigl":
        return isinstance(structure, ConstantFanIn)
    return structure.is_free or updater not in NEED_FREEDOM


def build(updater: str, inner: str, structure: Structure) -> tuple[keras.Model, SparseOptimizer]:
    model = make_model()
    kernels = [v for v in model.trainable_variables if len(v.shape) == 2]
    rng = np.random.default_rng(2)
    method = UPDATERS[updater]
    values = [tf.constant(rng.random(k.shape) < DENSITY) for k in kernels]
    if structure != UNSTRUCTURED:
        values = [structure.select(rng.random(k.shape), int(DENSITY * structure.size(k.shape))) for k in kernels]
    if structure.fixed_sparsity is not None and updater in GRADUAL:
        target = schedules.PolynomialSparsity(initial=0.0, final=structure.fixed_sparsity, begin=2, end=8)
        method, values = dataclasses.replace(method, sparsity=target), None
    if updater == "acdc":
        method, values = dataclasses.replace(method, sparsity=schedules.Constant(structure.fixed_sparsity or 0.5)), None
    if updater == "rigl_auto" and isinstance(structure, Channel):
        # The mean gradient of a channel is smaller than its largest.
        method = dataclasses.replace(method, coefficient=300.0)
    masks = Masks(kernels, values, ["hidden", "logits"], [structure] * 2)
    growth = {"rigl_averaged": 2, "rigl_grasp": held_out(model, kernels)}.get(updater, 1)
    makers = INNER | {name: functools.partial(maker, 0.01) for name, maker in FURTHER.items()}
    optimizer = SparseOptimizer(makers[inner](), masks, method, growth_gradient=growth)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def first_values(optimizer: SparseOptimizer) -> list[list[float]]:
    """Returns the value that each slot of each kernel starts with; a copy of the kernel starts at zero."""
    values = [[np.unique(slot.numpy()) for slot in slots] for slots in optimizer.slots]
    return [[float(value[0]) if len(value) == 1 else 0.0 for value in of_kernel] for of_kernel in values]


def check_invariants(
    optimizer: SparseOptimizer, updater: str, start: list[int], slot_starts: list[list[float]], before: list[int]
) -> list[int]:
    masks = optimizer.masks
    masks.check()
    active = masks.active()
    for structure, mask in zip(masks.structures, masks.values(), strict=True):
        assert structure.fits(mask) or (isinstance(structure, NM) and updater in GRADUAL)
    for (kernel, mask), slots, starts in zip(masks, optimizer.slots, slot_starts, strict=True):
        assert (mask.dtype, mask.shape, mask.trainable) == (tf.bool, kernel.shape, False)
        # A reserve trains off the mask; the factors of Adafactor know no mask.
        if not (optimizer.updater.has_reserve or isinstance(optimizer.inner, keras.optimizers.Adafactor)):
            for slot, first in zip(slots, starts, strict=True):
                assert np.all(slot.numpy()[~mask.numpy()] == np.float32(first)), "a slot moved off the mask"
    if updater == "prune":
        assert all(now <= then for now, then in zip(active, before, strict=True))
    elif updater in ("prune_global", "granet"):
        assert sum(active) <= sum(before)
    elif updater == "acdc":
        steps = int(optimizer.iterations.numpy())
        is_decompressed = steps < 3 or 5 <= steps < 7
        assert (active == start) == is_decompressed and sum(active) <= sum(start)
    elif updater == "snfs":
        assert sum(active) == sum(start)
    elif updater == "mest_soft":
        assert all(now >= first for now, first in zip(active, start, strict=True))
    elif updater == "srigl":
        spare = [int(np.sum(v.numpy())) for v in optimizer.variables if v.name.endswith("spare")]
        assert [now + more for now, more in zip(active, spare, strict=True)] == start
    else:
        assert active == start
    return active


def train(
    updater: str, inner: str, mode: str, structure: Structure = UNSTRUCTURED, steps: int = STEPS
) -> list[list[np.ndarray]]:
    """Trains, checks the invariants at every step, and returns masks and weights, step by step."""
    strategy = STRATEGIES.get(mode, tf.distribute.get_strategy)()
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model, optimizer = build(updater, inner, structure)

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = mean_loss(model, x, y) / replicas
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    def shares(x: tf.Tensor, y: tf.Tensor) -> None:
        def mine(whole: tf.Tensor) -> tf.Tensor:
            return tf.stack(tf.split(whole, replicas))[tf.distribute.get_replica_context().replica_id_in_sync_group]

        strategy.run(lambda: step(mine(x), mine(y)))

    if mode in STRATEGIES:
        function = tf.function(shares, autograph=False)
    else:
        function = step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")
    start = active = optimizer.masks.active()
    slot_starts = first_values(optimizer)
    history = []
    for x, y in batches()[:steps]:
        function(x, y)
        active = check_invariants(optimizer, updater, start, slot_starts, active)
        masks = [m.numpy() for m in optimizer.masks.variables_by_kernel]
        history.append([*masks, *(v.numpy() for v in model.trainable_variables)])
    for variable in [*optimizer.masks.variables_by_kernel, *(v.value for v in model.trainable_variables)]:
        copies = getattr(variable, "values", [variable])
        assert all(np.array_equal(copies[0], copy) for copy in copies), "the replicas disagree"
    assert int(optimizer.iterations.numpy()) == steps
    return history


@functools.cache
def trained(updater: str, inner: str, mode: str, structure: Structure) -> list[list[np.ndarray]]:
    return train(updater, inner, mode, structure)


def check(updater: str, inner: str, mode: str, structure: Structure = UNSTRUCTURED, against: str = "graph") -> None:
    """Trains in one mode, and in another that has to give the same."""
    expected, got = (trained(updater, inner, m, structure) for m in (against, mode))
    for step, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6, err_msg=f"step {step}")
    check_change(updater, got)


def check_change(updater: str, got: list[list[np.ndarray]]) -> None:
    changed = any(np.any(a[i] != b[i]) for a, b in itertools.pairwise(got) for i in (0, 1))
    assert changed == (updater not in ("static", "static_reinit"))


SHORT = (
    [(updater, "nesterov", mode) for updater in KINDS for mode in ("graph", "eager")]
    + [(updater, "nesterov", "replicas") for updater in REPLICATED]
    + [("snfs", "nesterov", "xla"), ("topkast", "nesterov", "one device")]
)
FULL = [(u, i, m) for u in UPDATERS for i in INNER for m in MODES if u != "srigl" and (u, i, m) not in SHORT]
STRUCTURED = [(u, s, m) for u in UPDATERS for s in STRUCTURES for m in MODES if suits(u, s)]
# Every structure with an updater that uses another part of it, and what only one structure can have.
STRUCTURED_SHORT = [
    *(("rigl", structure, "graph") for structure in STRUCTURES),
    ("granet", NM(2, 4), "graph"),
    ("srigl", ConstantFanIn(), "graph"),
]
ALONE = (
    [(updater, "nesterov", UNSTRUCTURED) for updater in UPDATERS if updater not in (*KINDS, "srigl")]
    + [("rigl", inner, UNSTRUCTURED) for inner in INNER if inner != "nesterov"]
    + [("topkast", "nesterov", NM(2, 4)), ("rigl_auto", "nesterov", NM(2, 4))]
    + [("snfs", "nesterov", Block(2, 2)), ("mest_soft", "nesterov", Block(2, 2))]
)
SHORT_STEPS = 6


@pytest.mark.parametrize(("updater", "inner", "mode"), SHORT)
def test_contract(updater, inner, mode):
    # Without a graph to compile where none is at hand.
    check(updater, inner, mode, against="graph" if updater in KINDS else "eager")


@pytest.mark.parametrize(("updater", "inner", "structure"), ALONE, ids=str)
def test_contract_step_by_step(updater, inner, structure):
    check_change(updater, train(updater, inner, "eager", structure, SHORT_STEPS))


@pytest.mark.slow
@pytest.mark.parametrize(("updater", "inner", "mode"), FULL)
def test_contract_in_full(updater, inner, mode):
    check(updater, inner, mode)


@pytest.mark.parametrize(("updater", "structure", "mode"), STRUCTURED_SHORT, ids=str)
def test_structures(updater, structure, mode):
    check(updater, "nesterov", mode, structure)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("updater", "structure", "mode"), [row for row in STRUCTURED if row not in STRUCTURED_SHORT], ids=str
)
def test_structures_in_full(updater, structure, mode):
    check(updater, "nesterov", mode, structure)


def test_srigl_ablates():
    history = trained("srigl", "nesterov", "graph", ConstantFanIn())
    fan_ins = [np.sum(history[-1][i], axis=0) for i in (0, 1)]
    assert any(np.any(fan_in == 0) for fan_in in fan_ins)


@pytest.mark.parametrize("inner", FURTHER)
def test_every_further_optimizer(inner):
    history = train("rigl_random", inner, "eager", steps=6)
    assert np.any(history[0][0] != history[-1][0])
    assert np.any(history[0][2] != history[-1][2])


def test_the_contract_has_every_optimizer_of_keras():
    known = {type(make()).__name__ for make in INNER.values()} | set(FURTHER) - set(OURS)
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    found = {name for name, value in vars(keras.optimizers).items() if inspect.isclass(value)}
    optimizers = {n for n in found if issubclass(getattr(keras.optimizers, n), keras.optimizers.Optimizer)}
    assert optimizers - wrappers == known
