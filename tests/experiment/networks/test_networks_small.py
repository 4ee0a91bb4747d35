"""Networks of the lottery-ticket and MNIST-1D papers: sizes and costs by hand, layers against numpy, kinds of input."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import api, counting, distributions
from sparse_lib.experiment.config.network import NetworkSettings
from sparse_lib.experiment.networks import MLP, NETWORKS, BidirectionalGRU, ConvN, ConvNet1D, LeNet5, Style
from sparse_lib.experiment.runtime.errors import SettingError

CIFAR, SEQUENCE, MNIST = (32, 32, 3), (40, 1), (28, 28, 1)
# Convolutions of Conv-6: 9 input channels x output channels.
CONVOLUTIONS = [9 * 3 * 64, 9 * 64**2, 9 * 64 * 128, 9 * 128**2, 9 * 128 * 256, 9 * 256**2]


@functools.cache
def shapes(network, image, **arguments):
    """A network whose weights have shapes and no values."""
    with keras.StatelessScope():
        return network(**arguments).build(image, 10, Style())


def kernel_sizes(model):
    return [math.prod(kernel.shape) for kernel in api.sparse_kernels(model).values()]


@pytest.mark.parametrize(
    ("depth", "pooled", "convolutions", "published"),
    [(2, 16 * 16 * 64, 38_592, 4.3e6), (4, 8 * 8 * 128, 259_776, 2.4e6), (6, 4 * 4 * 256, 1_144_512, None)],
)
def test_sizes_of_the_lottery_ticket_paper(depth, pooled, convolutions, published):
    model = shapes(ConvN, CIFAR, depth=depth)
    expected = [*CONVOLUTIONS[:depth], pooled * 256, 256 * 256, 256 * 10]
    assert kernel_sizes(model) == expected
    assert sum(expected[:depth]) == convolutions
    # Its 1.7 million for Conv-6 do not follow from its description.
    assert published is None or sum(expected) == pytest.approx(published, rel=0.02)
    assert model.count_params() == sum(expected) + sum((64, 64, 128, 128, 256, 256)[:depth]) + 522


def test_lenet_300_100_has_266_thousand_weights():
    assert sum(kernel_sizes(shapes(MLP, MNIST, initializer="glorot_normal"))) == 266_200


def test_weights_start_from_the_normal_distribution_of_glorot():
    for network, image, name, fans in (
        (ConvN(width=0.25), CIFAR, "conv2", 2 * 9 * 16),
        (MLP(initializer="glorot_normal"), MNIST, "dense1", 784 + 300),
    ):
        kernel = network.build(image, 10, Style()).get_layer(name).kernel.numpy()
        assert kernel.var() == pytest.approx(2 / fans, rel=0.1)
        # A uniform distribution of this variance ends at the square root of 3.
        assert 1.9 < abs(kernel).max() / math.sqrt(2 / fans) < 2.4


# As printed by the code of the MNIST-1D paper for PyTorch's layers.
@pytest.mark.parametrize(("network", "parameters"), [(ConvNet1D, 5_210), (BidirectionalGRU, 5_134)])
def test_sizes_of_the_mnist1d_paper(network, parameters):
    assert shapes(network, SEQUENCE).count_params() == parameters


def test_costs_by_hand():
    """Multiplications and additions, a bias in place of one addition, and one per activation."""
    conv2 = 2 * (27 * 16 + 9 * 16**2) * 32**2 + 2 * 16 * 32**2 + 2 * (16**3 * 64 + 64**2 + 640) + 2 * 64
    sequence = 2 * (5 * 25 * 19 + 3 * 25**2 * 10 + 3 * 25**2 * 5) + 25 * (19 + 10 + 5) + 2 * 125 * 10
    # In each direction at each place: products with the input and the state, the sum of both, two gates and a state.
    recurrent = 2 * 8 * (2 * 18 + 2 * 6 * 18 + 18 + 3 * 6) + 2 * 96 * 10
    for network, image, flops in (
        (ConvN(width=0.25), CIFAR, conv2),
        (ConvNet1D(), SEQUENCE, sequence),
        (BidirectionalGRU(), (8, 1), recurrent),
    ):
        model = network.build(image, 10, Style())
        assert counting.inference_flops(counting.CostModel(model).costs()) == flops


def test_masks_of_one_dimensional_convolutions_are_counted():
    model = ConvNet1D().build(SEQUENCE, 10, Style())
    kernels = api.sparse_kernels(model)
    active = {kernel.path: 20 for kernel in kernels.values()}
    costs = counting.CostModel(model).costs(active)
    # 20 weights at 19, 10, 5 and 1 places, and the activations.
    expected = [2 * 20 * places + 25 * places for places in (19, 10, 5)] + [2 * 20]
    assert [cost.inference_flops for cost in costs] == expected
    named = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
    active = distributions.nnz(named, 0.8, distribution="erk")
    shares = {name: active[name] / math.prod(shape) for name, shape in named.items()}
    # ERK: in proportion to the sum of the axes over their product.
    assert shares["conv2/kernel"] == shares["conv3/kernel"]
    ratio = (sum((3, 25, 25)) / (3 * 25 * 25)) / (sum((125, 10)) / 1_250)
    assert shares["conv2/kernel"] / shares["dense1/kernel"] == pytest.approx(ratio, rel=0.01)


def randomized(model):
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    return {v.path.partition("/")[2]: v.numpy().astype(float) for v in model.trainable_variables}


def test_the_convolutional_network_against_numpy():
    model = ConvNet1D(hidden_sizes=(3, 4)).build((9, 2), 5, Style())
    w, x = randomized(model), np.random.default_rng(0).normal(size=(9, 2))
    expected = x
    for name, window in (("conv1", 5), ("conv2", 3)):
        padded = np.pad(expected, ((1, 1), (0, 0)))
        places = range(0, len(padded) - window + 1, 2)
        products = [np.einsum("tc,tco->o", padded[t : t + window], w[f"{name}/kernel"]) for t in places]
        expected = np.maximum(np.stack(products) + w[f"{name}/bias"], 0)
    expected = expected.reshape(-1) @ w["dense1/kernel"] + w["dense1/bias"]
    np.testing.assert_allclose(model(x[None].astype(np.float32))[0], expected, rtol=1e-4, atol=1e-4)


def test_the_recurrent_network_against_numpy():
    model = BidirectionalGRU(hidden_sizes=(3,)).build((4, 2), 5, Style())
    w, x = randomized(model), np.random.default_rng(0).normal(size=(4, 2))

    def sigmoid(values):
        return 1 / (1 + np.exp(-values))

    def states(direction, sequence):
        cell = f"gru1/{direction}_gru1/gru_cell"
        state, found = np.zeros(3), []
        for value in sequence:
            a = np.split(value @ w[f"{cell}/kernel"] + w[f"{cell}/bias"][0], 3)
            b = np.split(state @ w[f"{cell}/recurrent_kernel"] + w[f"{cell}/bias"][1], 3)
            update, reset = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
            state = update * state + (1 - update) * np.tanh(a[2] + reset * b[2])
            found.append(state)
        return np.stack(found)

    both = np.concatenate([states("forward", x), states("backward", x[::-1])[::-1]], axis=1)
    expected = both.reshape(-1) @ w["dense1/kernel"] + w["dense1/bias"]
    np.testing.assert_allclose(model(x[None].astype(np.float32))[0], expected, rtol=1e-4, atol=1e-4)


def test_both_directions_have_weights_of_their_own_and_names_that_last():
    one, other = (BidirectionalGRU().build(SEQUENCE, 10, Style(seed=1)) for _ in range(2))
    assert [v.path for v in one.variables] == [v.path for v in other.variables]
    for mine, same in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(mine, same)
    values = {v.path.partition("/gru1/")[2]: v.numpy() for v in one.variables}
    for name in ("kernel", "recurrent_kernel"):
        forward, backward = (values[f"{side}_gru1/gru_cell/{name}"] for side in ("forward", "backward"))
        assert (forward != backward).all()


@pytest.mark.parametrize(
    ("name", "shape"), [("conv_n", CIFAR), ("convnet1d", SEQUENCE), ("bidirectional_gru", SEQUENCE)]
)
def test_scaled_sizes_have_fewer_parameters(name, shape):
    kind = NETWORKS[name]()
    with keras.StatelessScope():
        whole, half = (sizes.build(shape, 10, Style()).count_params() for sizes in (kind, kind.scale_width(0.5)))
    assert 0.2 * whole < half < 0.6 * whole


@pytest.mark.parametrize(
    ("network", "shape", "kind"),
    [
        (LeNet5(), SEQUENCE, r"images \[height, width, channels\]"),
        (ConvN(), SEQUENCE, "images"),
        (ConvNet1D(), MNIST, r"sequences \[length, channels\]"),
        (BidirectionalGRU(), MNIST, "sequences"),
    ],
)
def test_the_other_kind_of_examples_is_refused(network, shape, kind):
    settings = NetworkSettings(network_name=network.config_name)
    with pytest.raises(ValueError, match=rf"'{network.config_name}' takes {kind}.*choose another network"):
        settings.build(shape, 10, 0, network)


def test_an_mlp_takes_sequences_and_images():
    for shape in (SEQUENCE, MNIST):
        model = NetworkSettings(network_name="mlp").build(shape, 10, 0, MLP(hidden_sizes=(3,)))
        assert model(tf.zeros((2, *shape))).shape == (2, 10)


def test_impossible_sizes_are_refused():
    with pytest.raises(SettingError, match=r"conv_n\.depth=3 must be 2 or 4 or 6"):
        ConvN(depth=3)
    with pytest.raises(SettingError, match=r"mlp\.initializer='he' must be"):
        MLP(initializer="he")
