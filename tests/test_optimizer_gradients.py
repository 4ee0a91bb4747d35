"""Steps without a batch and kernels without a gradient change nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import schedules, updaters
from sparse_lib.masks import Masks, random_masks
from sparse_lib.optimizer import Growth, SparseOptimizer
from sparse_lib.structures import ConstantFanIn
from tests.replicas import two_replicas

SGD = keras.optimizers.SGD
CUBIC = schedules.PolynomialSparsity(initial=0.3, final=0.8, begin=2, end=12)


def data(n: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)).astype("float32")
    return x, x[:, :3].argmax(-1).astype("int32")


def loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make(inner, updater, **kwargs) -> tuple[keras.Model, SparseOptimizer]:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(10, "relu", name="hidden"), keras.layers.Dense(3, name="logits")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    kernels = [layer.kernel for layer in layers]
    values = [tf.constant(v) for v in random_masks([k.shape for k in kernels], [20, 12], 0)]
    return model, SparseOptimizer(inner, Masks(kernels, values, ["hidden", "logits"]), updater, **kwargs)


def gradients(model: keras.Model) -> list[tf.Tensor]:
    x, y = data()
    with tf.GradientTape() as tape:
        value = loss()(y, model(x))
    return tape.gradient(value, model.trainable_variables)


def everything(model: keras.Model, optimizer: SparseOptimizer) -> list[np.ndarray]:
    masks = optimizer.masks
    variables = [*model.trainable_variables, *optimizer.variables, *masks.variables_by_kernel, *masks.explored]
    return [variable.numpy() for variable in variables]


def assert_same(mine: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# --- steps without a batch ---


# An update is due at step 6, where the first epoch of six batches has ended.
AT_THE_END = {
    "prune": lambda: updaters.Prune(sparsity=schedules.Constant(0.8), begin_step=6, end_step=6, frequency=1),
    "rigl": lambda: updaters.RigL(begin_step=6, end_step=90, frequency=3, replaces_step=True),
    "mest": lambda: updaters.MEST(begin_step=6, end_step=90, frequency=3, soft_bound=True),
    "snfs": lambda: updaters.SNFS(begin_step=6, end_step=90, frequency=3),
    "topkast": updaters.TopKAST,
    "dnw": updaters.DNW,
}


def assert_end_changes_nothing(updater, scope=None, **kwargs) -> None:
    """Data of unknown length train a model like data of known length, in the same compiled function."""
    known = tf.data.Dataset.from_tensor_slices(data()).batch(8)
    with (scope() if scope else tf.distribute.get_strategy()).scope():
        model, optimizer = make(keras.optimizers.Adam(0.02, use_ema=True), updater, **kwargs)
        model.compile(optimizer, loss(), jit_compile=False)
        optimizer.build(model.trainable_variables)
    masks, results = optimizer.masks, []
    variables = [*model.variables, *optimizer.variables, *masks.variables_by_kernel, *masks.explored]
    start = [variable.numpy() for variable in variables]
    for batches in (known, known.filter(lambda x, y: True)):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        seen = []

        def look(epoch, logs, seen=seen):
            masks.check()
            seen.extend(everything(model, optimizer))

        model.fit(
            batches, epochs=2, shuffle=False, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)]
        )
        assert int(optimizer.iterations.numpy()) == 12
        results.append(seen)
    assert any(np.any(a != b) for a, b in zip(start, [v.numpy() for v in variables], strict=True))
    assert_same(*results)


# A reserve and what replaces a step; the others are left to the slow tests.
AT_THE_END_SHORT = ("rigl", "topkast")


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in AT_THE_END_SHORT)) for n in AT_THE_END]
)
def test_finding_the_end_of_the_data_changes_nothing(name):
    assert_end_changes_nothing(AT_THE_END[name]())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_finding_the_end_keeps_the_mean_of_gradients():
    updater = updaters.RigL(begin_step=6, end_step=90, frequency=3)
    assert_end_changes_nothing(updater, growth_gradient=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", ["topkast", "prune"])
def test_finding_the_end_on_replicas(name):
    assert_end_changes_nothing(AT_THE_END[name](), two_replicas)


@pytest.mark.parametrize("kind", ["apply", "train_step", "mask_step"])
@pytest.mark.parametrize("begin", [3, 90], ids=["due", "not due"])
def test_a_step_of_ones_own_past_the_end_changes_nothing(kind, begin):
    updater = updaters.TopKAST(frequency=1, begin_step=begin)
    model, optimizer = make(SGD(0.1, momentum=0.9), updater)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(iterator):
        x, y = iterator.get_next()
        with tf.GradientTape() as tape:
            value = loss()(y, model(x))
        grads = tape.gradient(value, model.trainable_variables)
        if kind == "apply":
            optimizer.apply(grads)
        else:
            getattr(optimizer, kind)(optimizer.reduce(grads))

    iterator = iter(tf.data.Dataset.from_tensor_slices(data()).batch(16))
    for _ in range(3):
        step(iterator)
    before = everything(model, optimizer)
    for _ in range(3):
        with pytest.raises(tf.errors.OutOfRangeError):
            step(iterator)
    assert_same(everything(model, optimizer), before)


def test_gradients_that_need_no_batch_wait_for_those_that_do():
    """The gradient of a penalty is there without a batch."""
    kernel, other = keras.Variable(np.ones((4, 3), "float32")), keras.Variable(np.ones(3, "float32"))
    optimizer = SparseOptimizer(SGD(0.1, weight_decay=0.1), Masks([kernel], [tf.constant(np.eye(4, 3, dtype=bool))]))
    optimizer.build([kernel, other])

    @tf.function
    def step(iterator):
        optimizer.apply([0.1 * kernel.value, iterator.get_next()])

    iterator = iter(tf.data.Dataset.from_tensors(tf.ones(3)))
    step(iterator)
    before = kernel.numpy()
    with pytest.raises(tf.errors.OutOfRangeError):
        step(iterator)
    np.testing.assert_array_equal(kernel.numpy(), before)
    assert int(optimizer.iterations.numpy()) == 1


# --- kernels without a gradient ---


EVERY_2 = {"begin_step": 2, "end_step": 90, "frequency": 2}
ROWS = {
    "momentum": (lambda: SGD(0.1, momentum=0.9, nesterov=True), None),
    "decay": (lambda: keras.optimizers.AdamW(0.01, weight_decay=0.5), None),
    "overwritten by averages": (lambda: SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2), None),
    "rigl": (lambda: keras.optimizers.Adam(0.01), updaters.RigL(**EVERY_2)),
    "rigl replaces": (lambda: SGD(0.1, momentum=0.9), updaters.RigL(**EVERY_2, replaces_step=True)),
    "rigl per layer by noise": (lambda: SGD(0.1), updaters.SET(**EVERY_2, growth_init="random")),
    "snfs": (lambda: SGD(0.1, momentum=0.9), updaters.SNFS(**EVERY_2)),
    "mest": (lambda: SGD(0.1, momentum=0.9), updaters.MEST(**EVERY_2, soft_bound=True)),
    "granet": (lambda: SGD(0.1), updaters.GraNet(sparsity=CUBIC, begin_step=2, end_step=12, frequency=2)),
    "prune": (
        lambda: SGD(0.1, momentum=0.9),
        updaters.Prune(sparsity=CUBIC, scope="global", begin_step=2, end_step=12, frequency=2),
    ),
    "topkast": (lambda: SGD(0.1, momentum=0.9, use_ema=True), updaters.TopKAST()),
    "dnw": (lambda: keras.optimizers.Adam(0.01, weight_decay=0.1), updaters.DNW()),
}


# Each row with one of the two ways to leave a gradient out; with the other in the slow tests.
RESTING = [
    pytest.param(row, given, resting, marks=[pytest.mark.slow] * ((place + resting) % 2))
    for place, row in enumerate(ROWS)
    for given, resting in (("None", 0), ("a subset", 1))
]


def of_kernel(model: keras.Model, optimizer: SparseOptimizer, index: int) -> list[np.ndarray]:
    """The kernel with its slots, mask and state."""
    kernel = optimizer.masks.kernels[index]
    state = [v.numpy() for v in optimizer.variables if tuple(v.shape) == tuple(kernel.shape)]
    masks = [optimizer.masks.variables_by_kernel[index].numpy(), optimizer.masks.explored[index].numpy()]
    return [kernel.numpy(), *state, *masks]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(("row", "given", "resting"), RESTING)
def test_a_kernel_without_a_gradient_stays(row, given, resting):
    inner, updater = ROWS[row]
    model, optimizer = make(inner(), updater)
    for _ in range(3):
        optimizer.apply(gradients(model), model.trainable_variables)
    before, others = of_kernel(model, optimizer, resting), of_kernel(model, optimizer, 1 - resting)
    kernel = optimizer.masks.kernels[resting]
    for _ in range(6):
        pairs = list(zip(gradients(model), model.trainable_variables, strict=True))
        if given == "None":
            pairs = [(None if v is kernel else g, v) for g, v in pairs]
        else:
            pairs = [(g, v) for g, v in pairs if v is not kernel]
        optimizer.apply_gradients(pairs)
        optimizer.masks.check()
    assert_same(of_kernel(model, optimizer, resting), before)
    assert np.any(of_kernel(model, optimizer, 1 - resting)[0] != others[0])
    assert int(optimizer.iterations.numpy()) == 9
    optimizer.finalize_variable_values([v for v in model.trainable_variables if v is not kernel])
    assert_same(of_kernel(model, optimizer, resting), before)
    for _ in range(3):
        optimizer.apply(gradients(model), model.trainable_variables)
        optimizer.masks.check()


FROZEN = [("rigl", "hidden"), ("topkast", "logits")]
FROZEN += [
    pytest.param(row, frozen, marks=pytest.mark.slow)
    for row in ("rigl", "prune", "topkast", "overwritten by averages")
    for frozen in ("hidden", "logits")
    if (row, frozen) not in FROZEN
]


@pytest.mark.parametrize(("row", "frozen"), FROZEN)
def test_a_layer_frozen_in_the_middle_stays(row, frozen):
    """Freezing as Keras documents it: set trainable, compile again with the same optimizer."""
    inner, updater = ROWS[row]
    model, optimizer = make(inner(), updater)
    x, y = data()
    model.compile(optimizer, loss(), jit_compile=False)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    model.get_layer(frozen).trainable = False
    model.compile(optimizer, loss(), jit_compile=False)
    index = ["hidden", "logits"].index(frozen)
    before = [of_kernel(model, optimizer, index), of_kernel(model, optimizer, 1 - index)]
    model.fit(x, y, batch_size=16, epochs=3, verbose=0)
    assert_same(of_kernel(model, optimizer, index), before[0])
    assert np.any(of_kernel(model, optimizer, 1 - index)[0] != before[1][0])
    optimizer.masks.check()
    model.get_layer(frozen).trainable = True
    model.compile(optimizer, loss(), jit_compile=False)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    assert np.any(of_kernel(model, optimizer, index)[0] != before[0][0])


def test_a_resting_kernel_on_replicas():
    strategy = two_replicas()
    with strategy.scope():
        model, optimizer = make(SGD(0.1, momentum=0.9), updaters.TopKAST())
        optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        pairs = zip(gradients(model), model.trainable_variables, strict=True)
        optimizer.apply_gradients([(g, v) for g, v in pairs if "hidden" not in v.path])

    before = of_kernel(model, optimizer, 0), of_kernel(model, optimizer, 1)
    for _ in range(3):
        strategy.run(step)
    assert_same(of_kernel(model, optimizer, 0), before[0])
    assert np.any(of_kernel(model, optimizer, 1)[0] != before[1][0])


def test_global_rankings_leave_a_resting_kernel_out():
    target = schedules.Constant(0.5)
    updater = updaters.Prune(sparsity=target, scope="global", begin_step=0, end_step=0, frequency=1)
    large, small = (keras.Variable(np.arange(1.0, 9.0, dtype="float32") * scale) for scale in (100, 1))
    optimizer = SparseOptimizer(SGD(0.0), Masks([large, small]), updater)
    optimizer.build([large, small])
    # Together, all eight small weights would leave.
    optimizer.apply([tf.ones(8)], [small])
    assert optimizer.masks.active() == [8, 4]
    assert small.numpy().tolist() == [0, 0, 0, 0, 5, 6, 7, 8]


def test_redistribution_leaves_a_resting_kernel_out():
    model, optimizer = make(SGD(0.1), updaters.SNFS(**EVERY_2))
    optimizer.build(model.trainable_variables)
    kernel = optimizer.masks.kernels[1]
    for _ in range(7):
        pairs = zip(gradients(model), model.trainable_variables, strict=True)
        optimizer.apply_gradients([(g, v) for g, v in pairs if v is not kernel])
    assert optimizer.masks.active() == [20, 12]
    assert optimizer.masks.exploration_rate()[0] > 20 / 60


@pytest.mark.parametrize("missing", ["gradient", "product"])
def test_growth_of_ones_own_without_a_gradient_for_a_kernel(missing):
    first, second = (keras.Variable(np.float32([4, 1, 0, 0])) for _ in range(2))
    mask = tf.constant([True, True, False, False])
    scores = [tf.constant([0.0, 0.0, 1.0, 2.0])] * 2
    half = [scores[0], None]
    given = Growth(half, scores) if missing == "gradient" else Growth(scores, half)
    updater = updaters.RigLGraSP(drop_fraction=schedules.Constant(0.5), frequency=1, begin_step=0)
    optimizer = SparseOptimizer(SGD(0.1), Masks([first, second], [mask, mask]), updater, growth_gradient=lambda: given)
    optimizer.build([first, second])
    optimizer.apply([tf.zeros(4), tf.zeros(4)])
    values = optimizer.masks.values()
    assert np.any(values[0].numpy() != mask.numpy())
    np.testing.assert_array_equal(values[1], mask)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_the_mean_of_gradients_restarts_without_a_gradient():
    updater = updaters.RigL(drop_fraction=schedules.Constant(0.5), frequency=3, begin_step=2)
    kernel, other = keras.Variable(np.float32([4, 1, 0, 0])), keras.Variable(np.float32([1.0]))
    masks = Masks([kernel], [tf.constant([True, True, False, False])])
    optimizer = SparseOptimizer(SGD(0.0), masks, updater, growth_gradient=3)
    optimizer.build([kernel, other])
    for step in range(6):
        # The first batch after the update, where the sum restarts, has no gradient; the sum of before is for weight 2.
        gradient = None if step == 3 else tf.constant([0.0, 0, 9, 0] if step < 3 else [0.0, 1, 0, 2])
        optimizer.apply([gradient, tf.ones(1)])
    assert masks.values()[0].numpy().tolist() == [True, False, False, True]


def test_places_that_srigl_never_ablates_are_those_of_all_kernels():
    rng = np.random.default_rng(0)
    kernels = []
    for _ in range(3):
        structure = ConstantFanIn(outputs=(1,))
        mask = tf.constant(random_masks([(8, 6)], [12], len(kernels), [structure])[0])
        weight = tf.where(mask, tf.constant(rng.normal(size=(8, 6)), tf.float32), 0.0)
        gradient = tf.constant(rng.normal(size=(8, 6)) * 100, tf.float32)
        kernels.append(updaters.Kernel(mask, weight, gradient, {"spare": tf.zeros((8, 6))}, None, structure))
    updater = updaters.SRigL(drop_fraction=0.9, end_step=90, ablation_threshold=0.95, never_ablated=(2,))
    context = updaters.UpdateContext(tf.constant(10, tf.int64), tf.constant(0.1), 0)
    everyone = updater.update(kernels, context)
    fewer = updater.update(kernels[1:], context._replace(left_out=frozenset({0})))
    for mine, theirs in zip(fewer, everyone[1:], strict=True):
        np.testing.assert_array_equal(mine.mask, theirs.mask)
    neurons = [int(np.any(update.mask.numpy(), axis=0).sum()) for update in fewer]
    assert neurons[0] < 6 == neurons[1]
