"""Weight matching: exact on what is known, optimal on what can be tried out, and the function stays the same."""

import itertools

import keras
import numpy as np
import pytest

from sparse_lib.landscape import matching
from sparse_lib.masks import Masks

layers = keras.layers


def mlp(*widths, inputs=4, classes=3):
    hidden = [layers.Dense(width, "relu", name=f"dense{i}") for i, width in enumerate(widths)]
    return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(classes, name="logits")])


def convnet():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, name="conv1"),
            layers.BatchNormalization(name="norm1"),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.DepthwiseConv2D(2, padding="same", name="depthwise"),
            layers.Conv2D(5, 2, activation="relu", name="conv2"),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.BatchNormalization(name="norm2"),
            keras.Sequential([layers.Dense(6, activation=layers.PReLU(), name="dense"), layers.LayerNormalization()]),
            layers.Dense(3, name="logits"),
        ]
    )
    # An activation layer makes its weights at the first call.
    model(np.zeros((1, 8, 8, 2)))
    return model


class Subclassed(keras.Model):
    """Calls two layers, and may scale the result by a weight outside of every layer."""

    def __init__(self, first, second, *, scaled=False):
        super().__init__()
        self.first, self.second = first, second
        self.scale = self.add_weight(shape=(), name="scale") if scaled else None
        self(np.zeros((1, 3)))

    def call(self, x):
        y = self.second(self.first(x))
        return y if self.scale is None else y * self.scale


def randomize(model, seed=0):
    """Gives every weight, statistics too, a random value; variances are positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = rng.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)


def values(variables):
    return [v.numpy() for v in variables]


def permuted_by(model, permutations):
    """A matching that applies known permutations."""
    return matching.Matching(permutations, 0.0, 0.0, matching.hidden_units(model))


def random_permutations(model, seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.permutation(units) for name, units in matching.hidden_units(model).units.items()}


def test_units_of_a_chain_lie_on_these_axes():
    model = convnet()
    found = matching.hidden_units(model)
    assert found.units == {"conv1": 4, "conv2": 5, "dense": 6}
    axes = {v.path.split("/", 1)[-1]: found.axes[id(v)] for v in model.weights}
    assert axes["conv1/kernel"] == ((-1, "conv1"),)
    assert axes["norm1/moving_mean"] == ((-1, "conv1"),)
    assert axes["depthwise/kernel"] == ((-2, "conv1"),)
    assert axes["conv2/kernel"] == ((-2, "conv1"), (-1, "conv2"))
    assert axes["norm2/gamma"] == ((-1, "conv2"),)
    assert axes["logits/kernel"] == ((-2, "dense"),)
    assert axes["logits/bias"] == ()


def test_a_flattened_axis_moves_channel_by_channel():
    model = keras.Sequential(
        [keras.Input((2, 1, 1)), layers.Conv2D(3, 1, name="conv"), layers.Flatten(), layers.Dense(1)]
    )
    kernel = np.array([[0], [1], [2], [10], [11], [12]])
    (moved,) = permuted_by(model, {"conv": np.array([2, 0, 1])}).permute([model.layers[-1].kernel], [kernel])
    assert moved.ravel().tolist() == [2, 0, 1, 12, 10, 11]


@pytest.mark.parametrize("make", [lambda: mlp(7, 5, 6), convnet])
def test_permuted_network_computes_the_same_function(make):
    model = make()
    randomize(model)
    x = np.random.default_rng(2).normal(size=(9, *model.input_shape[1:])).astype(np.float32)
    before = model(x).numpy()
    moved = permuted_by(model, random_permutations(model)).permute(model.weights, values(model.weights))
    assert any((a != b.numpy()).any() for a, b in zip(moved, model.weights, strict=True))
    for weight, value in zip(model.weights, moved, strict=True):
        weight.assign(value)
    np.testing.assert_allclose(model(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: mlp(9), lambda: mlp(20, 16), convnet])
def test_known_permutation_is_found_exactly(make):
    model = make()
    randomize(model)
    reference = values(model.trainable_variables)
    known = random_permutations(model)
    shuffled = permuted_by(model, known).permute(model.trainable_variables, reference)
    found = matching.match(model, reference, shuffled)
    assert found.distance == 0 < found.distance_before
    for name, permutation in known.items():
        np.testing.assert_array_equal(permutation[found.permutations[name]], np.arange(len(permutation)))
    for value, original in zip(found.permute(model.trainable_variables, shuffled), reference, strict=True):
        np.testing.assert_array_equal(value, original)


def brute_force(model, reference, params):
    """Smallest distance over all permutations of all hidden layers."""
    units = matching.hidden_units(model).units
    distances = []
    for choice in itertools.product(*(itertools.permutations(range(n)) for n in units.values())):
        permutations = {name: np.array(p) for name, p in zip(units, choice, strict=True)}
        moved = permuted_by(model, permutations).permute(model.trainable_variables, params)
        distances.append(np.sqrt(sum(np.sum((a - b) ** 2.0) for a, b in zip(moved, reference, strict=True))))
    return min(distances)


@pytest.mark.parametrize(("widths", "restarts"), [((3,), 1), ((3, 3), 20)])
@pytest.mark.parametrize("seed", range(5))
def test_distance_is_the_smallest_there_is(widths, restarts, seed):
    model = mlp(*widths)
    rng = np.random.default_rng(seed)
    reference, params = ([rng.normal(size=v.shape) for v in model.trainable_variables] for _ in range(2))
    found = matching.match(model, reference, params, restarts=restarts)
    assert found.distance == pytest.approx(brute_force(model, reference, params), rel=1e-6)
    assert found.distance <= found.distance_before


def test_more_starts_never_find_worse_and_some_find_better():
    model = mlp(5, 5, 5, 5)
    rng = np.random.default_rng(0)
    reference, params = ([rng.normal(size=v.shape) for v in model.trainable_variables] for _ in range(2))
    distances = [matching.match(model, reference, params, restarts=n).distance for n in (1, 5, 25)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < distances[0]


def test_the_seed_decides():
    model = mlp(6, 6, 6)
    rng = np.random.default_rng(0)
    reference, params = ([rng.normal(size=v.shape) for v in model.trainable_variables] for _ in range(2))
    one, same = (matching.match(model, reference, params, seed=4) for _ in range(2))
    for name, permutation in one.permutations.items():
        np.testing.assert_array_equal(permutation, same.permutations[name])
    others = [matching.match(model, reference, params, seed=seed, restarts=1).distance for seed in range(8)]
    assert len(set(others)) > 1


def test_masks_move_with_their_kernels():
    model = mlp(6, 5)
    randomize(model)
    masks = Masks([layer.kernel for layer in model.layers])
    rng = np.random.default_rng(3)
    masks.assign([rng.random(k.shape) < 0.4 for k in masks.kernels])
    moved = permuted_by(model, random_permutations(model))
    kernels = moved.permute(masks.kernels, values(masks.kernels))
    for kernel, mask in zip(kernels, moved.permute(masks.kernels, masks.values()), strict=True):
        assert mask.dtype == bool
        np.testing.assert_array_equal(kernel != 0, mask)


def test_subclassed_chain_is_matched_when_its_input_shape_is_told():
    model = Subclassed(layers.Dense(4, "relu"), layers.Dense(2))
    assert list(matching.hidden_units(model, (3,)).units.values()) == [4]
    with pytest.raises(ValueError, match="pass input_shape"):
        matching.hidden_units(model)


def test_layers_without_weights_that_keep_channels_apart_are_matched():
    kept = [layers.UpSampling1D(2), layers.Cropping1D(1), layers.SpatialDropout1D(0.5), layers.GaussianNoise(1.0)]
    model = keras.Sequential([keras.Input((6, 2)), layers.Conv1D(4, 3), *kept, layers.Flatten(), layers.Dense(3)])
    randomize(model)
    x = np.random.default_rng(0).normal(size=(5, 6, 2))
    before = model(x, training=False)
    moved = permuted_by(model, random_permutations(model))
    for variable, value in zip(model.variables, moved.permute(model.variables, values(model.variables)), strict=True):
        variable.assign(value)
    np.testing.assert_allclose(model(x, training=False), before, rtol=1e-4, atol=1e-5)


def residual():
    x = keras.Input((4,))
    h = layers.Dense(4)(x)
    return keras.Model(x, layers.Dense(2)(layers.Add(name="sum")([h, layers.Dense(4)(h)])))


def after_dense(layer, shape=(4,)):
    return keras.Sequential([keras.Input(shape), layers.Dense(6), layer, layers.Dense(2)])


def twice():
    shared = layers.Dense(4)
    return keras.Sequential([keras.Input((4,)), shared, layers.ReLU(), shared])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (residual, "'sum' takes something else"),
        (lambda: after_dense(layers.Reshape((6,), name="again")), "'again' of type Reshape"),
        (lambda: after_dense(layers.BatchNormalization(axis=1, name="norm"), (5, 4)), "'norm' of type Batch"),
        (lambda: after_dense(layers.Conv1D(4, 1, groups=2, name="groups"), (5, 4)), "'groups' of type Conv1D"),
        (lambda: after_dense(layers.DepthwiseConv1D(1, depth_multiplier=2, name="two"), (5, 4)), "'two' of type Depth"),
        (twice, "is called more than once"),
    ],
)
def test_what_is_no_chain_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        matching.hidden_units(make())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Subclassed(layers.Dense(6, "glu"), layers.Dense(2)), "which the 6 units of layer"),
        (lambda: Subclassed(layers.Dense(6), layers.Dense(2), scaled=True), "not that of its last layer"),
    ],
)
def test_subclassed_models_that_are_no_chain_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        matching.hidden_units(model(), (3,))


def test_wrong_arguments_are_refused():
    model = mlp(3)
    good = values(model.trainable_variables)
    with pytest.raises(ValueError, match="one array of its shape"):
        matching.match(model, good, good[:-1])
    with pytest.raises(ValueError, match="choose at least 1"):
        matching.match(model, good, good, restarts=0)
