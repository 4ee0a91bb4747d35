"""Small-dense twins: their cost is that of the sparse network, counted independently."""

import itertools
import math

import pytest

from sparse_lib import counting, distributions
from sparse_lib.experiment.config.network import NetworkSettings
from sparse_lib.experiment.config.small_dense import SmallDenseSettings
from sparse_lib.experiment.networks import MLP, LeNet5, WideResNet
from sparse_lib.experiment.runtime.errors import SettingError

IMAGE = (28, 28, 1)


def parameters_of_an_mlp(hidden):
    widths = [784, *hidden, 10]
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def test_the_twin_of_an_mlp_has_its_parameters():
    full = MLP(hidden_sizes=(300, 100))
    twin = SmallDenseSettings(sparsity=0.9).fit(NetworkSettings(network_name="mlp"), full, IMAGE, 10)
    budget = parameters_of_an_mlp((300, 100)) - int(0.9 * 235_200) - int(0.9 * 30_000) - int(0.9 * 1_000)
    candidates = {w: tuple(int(n * w / 1000) for n in (300, 100)) for w in range(10, 1000)}
    nearest = min(abs(parameters_of_an_mlp(hidden) - budget) for hidden in candidates.values())
    assert abs(parameters_of_an_mlp(twin.hidden_sizes) - budget) == nearest
    assert tuple(twin.hidden_sizes) in candidates.values()


@pytest.mark.parametrize("budget", ["bytes", "flops"])
def test_the_twin_of_lenet5_has_its_bytes_or_flops(budget):
    network, full = NetworkSettings(network_name="lenet5"), LeNet5(hidden_sizes=(40, 60, 120, 84))
    settings = SmallDenseSettings(sparsity=0.8, distribution="erk", custom={"conv1": 0.0}, budget=budget)
    twin = settings.fit(network, full, IMAGE, 10)
    sparse_model = network.build(IMAGE, 10, 0, full)
    kernels = network.kernels(sparse_model)
    shapes = {name: tuple(v.shape) for name, v in kernels.items()}
    counts = distributions.nnz(shapes, 0.8, custom={"conv1/kernel": 0.0})
    active = {kernels[name].path: n for name, n in counts.items()}
    measure = counting.size_bytes if budget == "bytes" else counting.inference_flops
    wanted = measure(counting.layer_costs(sparse_model, active))
    found = measure(counting.layer_costs(network.build(IMAGE, 10, 0, twin)))
    assert found == pytest.approx(wanted, rel=0.06)


def test_a_multiplier_is_multiplied():
    network, full = NetworkSettings(network_name="wide_resnet"), WideResNet(depth=10, width=2.0)
    twin = SmallDenseSettings(sparsity=0.8).fit(network, full, (32, 32, 3), 10)
    assert twin.depth == 10 and twin.width < 1.2
    whole, narrow = (
        sum(math.prod(v.shape) for v in network.build((32, 32, 3), 10, 0, s).trainable_variables) for s in (full, twin)
    )
    assert narrow == pytest.approx(0.2 * whole, rel=0.03)


def test_without_a_sparsity_the_widths_stay():
    full = LeNet5()
    assert SmallDenseSettings().fit(NetworkSettings(), full, IMAGE, 10) is full
    with pytest.raises(SettingError, match=r"small_dense\.custom=.* needs small_dense\.sparsity"):
        SmallDenseSettings(custom={"conv1": 0.0})
