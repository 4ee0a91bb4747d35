"""The networks: their sizes, names and seeds."""

import inspect
import math

import numpy as np
import pytest

from sparse_lib.experiment.networks import MLP, NETWORKS, LeNet5, Network, Style

IMAGE = (28, 28, 1)


def counts(model):
    weights = sum(math.prod(v.shape) for v in model.trainable_variables if v.name == "kernel")
    biases = sum(math.prod(v.shape) for v in model.trainable_variables if v.name == "bias")
    return weights, biases


@pytest.mark.parametrize(
    ("network", "sizes", "weights", "biases"),
    [
        (LeNet5, (6, 16, 120, 84), 44_190, 236),
        (LeNet5, (3, 3, 27, 20), 2_336, 63),
        (MLP, (300, 100), 266_200, 410),
        (MLP, (8, 8), 6_416, 26),
    ],
)
def test_published_sizes(network, sizes, weights, biases):
    model = network(hidden_sizes=sizes).build(IMAGE, 10, Style())
    assert counts(model) == (weights, biases)
    assert model.count_params() == weights + biases
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("network", "sizes", "names"),
    [
        (LeNet5, (2, 3, 5, 4), ["conv1", "conv2", "dense1", "dense2", "dense3"]),
        (MLP, (5, 4, 3), ["dense1", "dense2", "dense3", "dense4"]),
    ],
)
def test_names_do_not_depend_on_what_was_built_before(network, sizes, names):
    for _ in range(2):
        model = network(hidden_sizes=sizes).build(IMAGE, 10, Style())
        paths = [v.path for v in model.trainable_variables]
        assert paths == [f"{model.name}/{name}/{which}" for name in names for which in ("kernel", "bias")]


@pytest.mark.parametrize(("network", "sizes"), [(LeNet5, (2, 3, 5, 4)), (MLP, (5, 4))])
def test_initial_weights_are_a_function_of_the_seed(network, sizes):
    def kernels(seed):
        model = network(hidden_sizes=sizes).build(IMAGE, 10, Style(seed=seed))
        return [v.numpy() for v in model.trainable_variables if v.name == "kernel"]

    for one, same, other in zip(kernels(3), kernels(3), kernels(4), strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != other).all()
    assert np.isfinite(kernels(2**40)[0]).all()


def test_a_layer_keeps_its_weights_where_another_one_changes_size():
    narrow, wide = (MLP(hidden_sizes=(5, width)).build(IMAGE, 10, Style(seed=1)) for width in (4, 9))
    np.testing.assert_array_equal(narrow.get_layer("dense1").kernel, wide.get_layer("dense1").kernel)


def test_initial_weights_are_glorot_uniform():
    kernel = MLP(hidden_sizes=(300, 100)).build(IMAGE, 10, Style()).get_layer("dense1").kernel.numpy()
    limit = math.sqrt(6 / (784 + 300))
    assert abs(kernel).max() <= limit and kernel.var() == pytest.approx(limit**2 / 3, rel=0.02)


@pytest.mark.parametrize(("network", "sizes", "norms"), [(LeNet5, (2, 3, 5, 4), 4), (MLP, (5, 4), 2)])
def test_batch_norm_follows_every_hidden_layer(network, sizes, norms):
    model = network(hidden_sizes=sizes, use_batch_norm=True).build(IMAGE, 10, Style())
    assert sum("norm" in layer.name for layer in model.layers) == norms
    assert model.layers[-1].name.startswith("dense")


def test_weight_decay_is_that_of_the_kernels():
    model = MLP(hidden_sizes=(5, 4)).build(IMAGE, 10, Style(weight_decay=0.01))
    model(np.zeros((1, *IMAGE), np.float32))
    squares = sum(float(np.sum(v.numpy() ** 2)) for v in model.trainable_variables if v.name == "kernel")
    assert sum(float(loss) for loss in model.losses) == pytest.approx(0.01 * squares)
    assert not MLP(hidden_sizes=(5, 4)).build(IMAGE, 10, Style()).losses


def test_the_activation_is_that_of_the_hidden_layers():
    model = LeNet5(hidden_sizes=(2, 3, 5, 4)).build(IMAGE, 10, Style(activation="tanh"))
    names = [layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")]
    assert names == ["tanh"] * 4 + ["linear"]


def test_every_network_is_in_the_registry():
    def descendants(kind):
        return [kind, *(other for child in kind.__subclasses__() for other in descendants(child))]

    # Gin makes subclasses of its own.
    ours = [kind for kind in descendants(Network) if kind.__module__.startswith("sparse_lib.experiment.networks.")]
    concrete = {kind for kind in ours if not inspect.isabstract(kind)}
    assert {NETWORKS[kind.config_name] for kind in concrete} == set(NETWORKS.values()) >= {LeNet5, MLP}
    assert len(NETWORKS) == len({kind.config_name for kind in concrete})


def test_lenet5_needs_four_sizes():
    with pytest.raises(ValueError, match=r"lenet5\.hidden_sizes takes four numbers"):
        LeNet5(hidden_sizes=(6, 16)).build(IMAGE, 10, Style())
