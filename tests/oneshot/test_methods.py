"""Tests of one-shot pruning: golden SNIP masks, exact counts, splits, collapse, any model."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import distributions, selection
from sparse_lib.api import sparse_kernels
from sparse_lib.objective import Objective, cross_entropy
from sparse_lib.oneshot import METHODS, SNIP, GraSP, Magnitude, OneShot, Problem, Random, SynFlow, scores, synflow

layers = keras.layers


def he(seed):
    return keras.initializers.HeNormal(seed=seed)


def chain(widths, **settings):
    """Dense ReLU layers without biases; the last one is linear."""
    stack = [keras.Input((widths[0],))]
    for i, width in enumerate(widths[1:]):
        activation = "relu" if i < len(widths) - 2 else None
        settings = {"use_bias": False, "kernel_initializer": he(i)} | settings
        stack.append(layers.Dense(width, activation, name=f"dense{i}", **settings))
    return keras.Sequential(stack)


def with_batch_norm():
    """A convolution, batch norm with averages of its own, dropout, and a nested classifier."""
    head = keras.Sequential([keras.Input((9,)), layers.Dense(3, kernel_initializer=he(1))])
    inputs = keras.Input((8, 8, 2))
    z = layers.Conv2D(4, 3, strides=2, kernel_initializer=he(0), name="conv")(inputs)
    norm = layers.BatchNormalization(name="norm")
    z = layers.MaxPooling2D(2, strides=1)(keras.ops.relu(norm(z)))
    z = layers.Dropout(0.5)(layers.Flatten()(z))
    z = layers.Dense(9, kernel_initializer=he(2), name="middle")(z)
    model = keras.Model(inputs, head(z))
    norm.moving_mean.assign([0.3, -0.2, 0.1, 2.0])
    norm.moving_variance.assign([0.5, 2.0, 1.0, 0.7])
    return model


class Subclassed(keras.Model):
    """A model that knows the shape of its inputs only from a call."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, "relu", kernel_initializer=he(0))
        self.logits = layers.Dense(3, kernel_initializer=he(1))

    def call(self, x):
        return self.logits(self.hidden(x))


def subclassed():
    model = Subclassed()
    model(tf.ones((1, 6)))
    return model


def two_inputs():
    image, context = keras.Input((4,), name="image"), keras.Input((2,), name="context")
    joined = layers.Concatenate()([image, context])
    logits = layers.Dense(3, kernel_initializer=he(0))(joined)
    return keras.Model({"image": image, "context": context}, logits)


def data(n=64, shape=(8, 8, 2), classes=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, *shape)).astype("float32"), rng.integers(0, classes, n)


def split(x, y, sizes):
    places = np.cumsum(sizes)[:-1]
    return list(zip(np.split(x, places), np.split(y, places), strict=True))


def masks_of(method, model, batches=None, **settings):
    return method.masks(Objective(model), sparse_kernels(model), batches, **settings)


def make_method(name, **settings):
    """A method by name, with few rounds."""
    return METHODS[name](rounds=3 if name == "synflow" else 1, **settings)


def places_of_kernels(model):
    return [i for i, v in enumerate(model.trainable_variables) if v.name == "kernel"]


def counts(masks):
    return [int(selection.count_active(m)) for m in masks]


def flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", range(3))
def test_snip_per_layer_equals_the_golden_masks(golden, case):
    case = golden("snip")["cases"][case]
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "relu", use_bias=False, name="layer1"),
            layers.Dense(3, use_bias=False, name="layer2"),
        ]
    )
    model.set_weights([np.array(w) for w in case["weights"]])
    kernels = dict(zip(("layer1", "layer2"), model.trainable_variables, strict=True))
    x, y = np.array(case["x"], np.float32), np.array(case["y"])
    objective = Objective(model)
    gradient = scores.mean_gradient(objective, objective.params(), split(x, y, (5, 7)))
    for found, expected in zip(gradient, case["grads_before"], strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)
    layer_sparsities = distributions.sparsities(
        {name: tuple(kernel.shape) for name, kernel in kernels.items()},
        case["sparsity"],
        distribution=case["method"],
        custom=case["custom"],
    )
    method = SNIP(sparsity=case["sparsity"], scope="layer", layer_sparsities=layer_sparsities)
    masks = method.masks(objective, kernels, split(x, y, (5, 7)))
    assert counts(masks) == case["n_ones"]
    assert_same(masks, [np.array(mask, bool) for mask in case["masks"]])


@pytest.mark.parametrize(
    ("method", "scope"), [(SNIP, "global"), pytest.param(SNIP, "layer", marks=pytest.mark.slow), (GraSP, "global")]
)
def test_masks_do_not_depend_on_the_split_into_batches(method, scope):
    model = with_batch_norm()
    x, y = data()
    pruner = method(sparsity=0.8, scope=scope)
    whole = masks_of(pruner, model, [(x, y)])
    assert_same(whole, masks_of(pruner, model, split(x, y, [16] * 4)))
    assert_same(whole, masks_of(pruner, model, iter(split(x, y, [50, 14]))))
    assert np.any(flat(whole) != flat(masks_of(pruner, model, [(x[:32], y[:32])])))


# What ranks the scores does not know where they come from: one costly method within layers is enough.
@pytest.mark.parametrize(
    ("name", "scope"),
    [
        *((name, "global") for name in METHODS),
        *((name, "layer") for name in ("magnitude", "random", "snip")),
        *(pytest.param(name, "layer", marks=pytest.mark.slow) for name in ("grasp", "synflow", "wanda")),
        ("magnitude", "output"),
    ],
)
def test_counts_are_exact_and_the_model_is_left_alone(name, scope):
    sparsity = 0.87
    model = with_batch_norm()
    before = [v.numpy().tobytes() for v in model.variables]
    policies = [layer.dtype_policy for layer in [model, *model.layers]]
    masks = masks_of(make_method(name, sparsity=sparsity, scope=scope), model, [data()])
    sizes = [v.numpy().size for v in sparse_kernels(model).values()]
    assert [m.shape for m in masks] == [v.shape for v in sparse_kernels(model).values()]
    assert all(m.dtype == tf.bool for m in masks)
    if scope == "global":
        assert sum(counts(masks)) == sum(sizes) - int(sparsity * sum(sizes))
    elif scope == "output":
        by_output = [np.reshape(m, (-1, m.shape[-1])) for m in masks]
        assert all(np.all(m.sum(axis=0) == len(m) - int(sparsity * len(m))) for m in by_output)
    else:
        assert counts(masks) == [n - int(sparsity * n) for n in sizes]
    assert [v.numpy().tobytes() for v in model.variables] == before
    assert [layer.dtype_policy for layer in [model, *model.layers]] == policies


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((name, make) for name in METHODS for make in (subclassed, two_inputs)),
        ("snip", with_batch_norm),
        *(pytest.param(name, with_batch_norm, marks=pytest.mark.slow) for name in METHODS if name != "snip"),
    ],
)
def test_every_kind_of_model(name, make):
    model = make()
    x, y = data(shape=(6,)) if make is subclassed else data()
    if make is two_inputs:
        x = {"image": x[:, 0, :2].reshape(-1, 4), "context": x[:, 0, 0]}
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(24)
    masks = masks_of(make_method(name, sparsity=0.5, scope="global"), model, dataset)
    sizes = [v.numpy().size for v in sparse_kernels(model).values()]
    assert sum(counts(masks)) == sum(sizes) - sum(sizes) // 2


def test_global_magnitude_keeps_the_largest_weights():
    model = chain((4, 5, 3))
    masks = masks_of(Magnitude(sparsity=0.6), model)
    weights = np.abs(flat(model.trainable_variables))
    threshold = np.sort(weights)[-14]
    np.testing.assert_array_equal(flat(masks), weights >= threshold)


def test_grasp_keeps_the_highest_scores_of_the_tempered_loss():
    model = with_batch_norm()
    objective, (x, y) = Objective(model), data()
    params = objective.params()
    places = places_of_kernels(model)

    def cool_loss(y_true, logits):
        return cross_entropy(y_true, logits / 200.0)

    by_temperature = {1.0: objective, 200.0: Objective(model, cool_loss)}
    kept = {}
    for temperature, loss in by_temperature.items():
        truth = flat(scores.grasp(loss, params, places, [(x, y)]))
        kept[temperature] = flat(masks_of(GraSP(sparsity=0.7, temperature=temperature), model, [(x, y)]))
        order = np.sort(truth)[::-1]
        count = kept[temperature].sum()
        assert truth[kept[temperature]].min() >= order[count - 1] - 1e-3 * abs(order[count - 1])
    assert GraSP(sparsity=0.7).temperature == 200
    assert np.any(kept[1.0] != kept[200.0])


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_sparsity_zero_keeps_all(scope):
    model = chain((4, 5, 3))
    assert counts(masks_of(Magnitude(sparsity=0.0, scope=scope), model)) == [20, 15]


def test_random_masks_follow_the_seed():
    model = chain((20, 30, 10))
    method = Random(sparsity=0.5)
    first = masks_of(method, model, seed=1)
    assert_same(first, masks_of(method, model, seed=1))
    assert np.mean(flat(first) != flat(masks_of(method, model, seed=2))) > 0.4


def test_layer_sparsities_override_by_name_and_others_take_the_overall_one():
    model = chain((10, 20, 5))
    method = Magnitude(sparsity=0.9, scope="layer", layer_sparsities={"dense0/kernel": 0.25})
    assert counts(masks_of(method, model)) == [150, 10]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(OneShot):
    """Magnitude that writes down how many weights each round sees."""

    seen: list = dataclasses.field(default_factory=list)

    def scorer(self, problem):
        def score(params):
            self.seen.append(sum(int(tf.math.count_nonzero(params[i])) for i in problem.kernels))
            return scores.magnitude(params, problem.kernels)

        return score


def test_density_falls_exponentially_over_rounds():
    method = Watched(sparsity=0.95, rounds=4)
    masks = masks_of(method, chain((40, 50, 10)))
    assert method.seen == [2500, 1182, 559, 264]  # 2500 * 0.05^(r/4)
    assert sum(counts(masks)) == 125
    assert_same(masks, masks_of(Magnitude(sparsity=0.95), chain((40, 50, 10))))


def test_iterative_snip_scores_again_what_is_left():
    model, batches = chain((6, 30, 3)), [data(shape=(6,))]
    once = masks_of(SNIP(sparsity=0.9), model, batches)
    thrice = masks_of(SNIP(sparsity=0.9, rounds=3), model, batches)
    assert sum(counts(once)) == sum(counts(thrice)) == 27
    assert np.any(flat(once) != flat(thrice))


def test_min_per_layer_takes_the_best_of_a_starved_layer():
    model = chain((30, 40, 3))
    kernels = model.trainable_variables
    kernels[1].assign(kernels[1] * 1e-3)
    with pytest.warns(UserWarning, match="Layer collapse: dense1/kernel keep"):
        assert counts(masks_of(Magnitude(sparsity=0.9), model)) == [132, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = masks_of(Magnitude(sparsity=0.9, min_per_layer=5), model)
    assert counts([first, second]) == [127, 5]
    best = np.sort(np.abs(kernels[1].numpy()), axis=None)[-5:]
    np.testing.assert_array_equal(np.sort(np.abs(kernels[1].numpy()[second])), best)
    best = np.sort(np.abs(kernels[0].numpy()), axis=None)[-127:]
    np.testing.assert_array_equal(np.sort(np.abs(kernels[0].numpy()[first])), best)


def test_only_iterated_synflow_avoids_layer_collapse_at_very_high_sparsity():
    model = chain((64, 512, 256, 8))
    for method in (Magnitude(sparsity=0.999), SynFlow(sparsity=0.999, rounds=1)):
        with pytest.warns(UserWarning, match="Layer collapse"):
            masks = masks_of(method, model)
        assert 0 in counts(masks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = masks_of(SynFlow(sparsity=0.999), model)
    assert sum(counts(masks)) == 166  # of 165,888
    signal = tf.ones((1, 64))
    for kernel, mask in zip(model.trainable_variables, masks, strict=True):
        signal = signal @ tf.where(mask, tf.abs(kernel.value), 0.0)
    assert tf.reduce_all(tf.reduce_sum(signal) > 0)


def synflow_scores(model, **settings):
    problem = Problem(Objective(model), places_of_kernels(model), None, 0)
    return SynFlow(sparsity=0.5, **settings).scorer(problem)(Objective(model).params())


def test_synflow_of_a_network_beyond_float32_is_finite_and_conserved():
    model = chain((100,) * 40)
    params = [tf.abs(v.value) for v in model.trainable_variables]
    flow = synflow.synaptic_flow(model, params, tf.ones((1, 100)))
    product = np.ones(100)
    for kernel in params:
        product = product @ kernel.numpy().astype(np.float64)
    assert float(flow) == pytest.approx(product.sum(), rel=1e-9)
    assert flow > 1e40
    for layer in synflow_scores(model):
        assert float(tf.reduce_sum(layer)) == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match=r"SynFlow scores of dense\d+/kernel are not finite"):
        masks_of(SynFlow(sparsity=0.5, float64=False), model)


def test_synflow_of_a_network_within_float32_needs_no_float64():
    wide, narrow = (synflow_scores(with_batch_norm(), float64=flag) for flag in (True, False))
    np.testing.assert_allclose(flat(wide), flat(narrow), rtol=1e-4, atol=1e-9)


def test_synflow_takes_absolute_values_of_all_and_no_averages():
    model = with_batch_norm()
    found = synflow_scores(model)
    model.get_layer("norm").moving_mean.assign([5.0, 5.0, 5.0, 5.0])
    model.get_layer("norm").moving_variance.assign([9.0, 1.0, 4.0, 2.0])
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(-variable)
    np.testing.assert_array_equal(flat(found), flat(synflow_scores(model)))
    bias = model.get_layer("middle").bias
    bias.assign(tf.ones(9))
    with_bias = synflow_scores(model)
    bias.assign(-tf.ones(9))
    np.testing.assert_array_equal(flat(with_bias), flat(synflow_scores(model)))
    assert float(tf.reduce_sum(with_bias[0])) < 0.99 < float(tf.reduce_sum(with_bias[2]))


def test_dtype_policies_return_after_a_failure():
    class Failing(layers.Layer):
        def call(self, x):
            if x.dtype == tf.float64:
                raise RuntimeError("no float64 here")
            return x

    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), Failing()])
    with pytest.raises(RuntimeError):
        masks_of(SynFlow(sparsity=0.5), model)
    assert {layer.dtype_policy.name for layer in [model, *model.layers]} == {"float32"}
    assert {layer.compute_dtype for layer in [model, *model.layers]} == {"float32"}
    assert sum(counts(masks_of(SynFlow(sparsity=0.5, float64=False), model))) == 3


@pytest.mark.parametrize("method", [SNIP, GraSP])
def test_the_derivatives_are_traced_once_however_many_batches_there_are(method):
    traces = []

    def loss(y_true, logits):
        traces.append(1)
        return cross_entropy(y_true, logits)

    model = chain((6, 5, 3))
    x, y = data(shape=(6,))
    numbers = []
    for sizes in ([32] * 2, [8] * 8):
        traces.clear()
        rounds = 3 if method is SNIP else 1
        method(sparsity=0.5, rounds=rounds).masks(Objective(model, loss), sparse_kernels(model), split(x, y, sizes))
        numbers.append(len(traces))
    assert numbers[0] == numbers[1] > 0


def test_nan_and_silent_networks_are_refused():
    model = chain((6, 5, 3))
    x, y = data(shape=(6,))
    bad = x.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match="SNIP scores of dense0/kernel are not finite"):
        masks_of(SNIP(sparsity=0.5), model, [(bad, y)])
    silent = chain((6, 5, 3), kernel_initializer="zeros")
    for method in (Magnitude, SNIP, GraSP, SynFlow):
        with pytest.raises(ValueError, match=f"All {method.__name__} scores are zero"):
            masks_of(method(sparsity=0.5), silent, [(x, y)])
    model.trainable_variables[1].assign(np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="Magnitude scores of dense1/kernel are not finite"):
        masks_of(Magnitude(sparsity=0.5), model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "fraction of zeros"),
        ({"sparsity": -0.1}, "fraction of zeros"),
        ({"sparsity": float("nan")}, "fraction of zeros"),
        ({"sparsity": 0.5, "scope": "layers"}, "Unknown scope 'layers'"),
        ({"sparsity": 0.5, "scope": "layer", "layer_sparsities": {"a": 1.0}}, "A sparsity is 1.0"),
        ({"sparsity": 0.5, "min_per_layer": -1}, "at least 0"),
        ({"sparsity": 0.5, "rounds": 0}, "at least 1 round"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SNIP(**settings)


def test_bad_settings_of_grasp():
    with pytest.raises(ValueError, match="positive number"):
        GraSP(sparsity=0.5, temperature=0.0)
    with pytest.raises(ValueError, match="leave rounds at 1"):
        GraSP(sparsity=0.5, rounds=2)


def test_bad_calls():
    model = chain((6, 5, 3))
    objective, kernels = Objective(model), sparse_kernels(model)
    x, y = data(shape=(6,))
    with pytest.raises(ValueError, match="give it batches"):
        SNIP(sparsity=0.5).masks(objective, kernels)
    with pytest.raises(ValueError, match="at least one batch"):
        SNIP(sparsity=0.5).masks(objective, kernels, [])
    with pytest.raises(ValueError, match="Batches are pairs"):
        SNIP(sparsity=0.5).masks(objective, kernels, [x, y])
    with pytest.raises(ValueError, match="No kernels"):
        Magnitude(sparsity=0.5).masks(objective, {})
    with pytest.raises(ValueError, match="'dense0/kernel'.*cannot be pruned"):
        Magnitude(sparsity=0.5).masks(objective, sparse_kernels(chain((6, 5, 3))))
    with pytest.raises(ValueError, match=r"name \['dense7'\]"):
        Magnitude(sparsity=0.5, scope="layer", layer_sparsities={"dense7": 0.5}).masks(objective, kernels)
    with pytest.raises(ValueError, match="asks for 30 weights and the sparsity leaves 23"):
        Magnitude(sparsity=0.5, min_per_layer=15).masks(objective, kernels)
    with pytest.raises(ValueError, match="give batches that do"):
        masks_of(SynFlow(sparsity=0.5), subclassed())
