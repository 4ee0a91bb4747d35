"""The published counting rule against the published tables."""

from dataclasses import replace

import pytest

from sparse_lib import counting, distributions
from sparse_lib.counting import micronet
from sparse_lib.counting.micronet import LayerShape, scale_width
from tests.golden_values import read_golden

GOLDEN = read_golden("counting")
RESNET = GOLDEN["resnet50"]
MOBILENETS = {variant: GOLDEN["mobilenet_v1"][variant] for variant in ("colab", "modern")}


def shapes_of(layers, depthwise=False):
    """The golden file's layers; `depthwise` gives each depthwise channel its own output."""
    return [
        LayerShape(
            name=layer["name"],
            kernel=tuple(layer["kernel"]),
            input_size=layer["input_size"],
            stride=layer["stride"] or 1,
            depthwise=depthwise and layer["type"] == "DepthwiseConv2D",
        )
        for layer in layers
    ]


NETWORKS = {
    "resnet50": shapes_of(RESNET["layers"]),
    "colab": shapes_of(MOBILENETS["colab"]["layers"]),
    "modern": shapes_of(MOBILENETS["modern"]["layers"], depthwise=True),
}
CASES = [("resnet50", case) for case in RESNET["cases"]]
CASES += [(name, case) for name, net in MOBILENETS.items() for case in net["cases"]]


def totals(layers, case):
    """FLOPs and bits of a golden case, whose real-valued sparsities are not rounded to weights."""
    sparsities = distributions.sparsities(
        {layer.name: layer.kernel for layer in layers},
        case["sparsity"],
        distribution=case["method"],
        custom=case["custom"],
        power_scale=case.get("erk_power_scale", 1.0),
    )
    return micronet.totals(layers, sparsities, case["width"])


@pytest.mark.parametrize(("network", "case"), CASES, ids=[f"{name}-{c['tag']}-{c['sparsity']}" for name, c in CASES])
def test_published_totals_to_the_last_digit(network, case):
    layers = NETWORKS[network]
    flops, bits = totals(layers, case)
    assert flops == case["flops"]
    assert bits == case["size_bits"]
    assert bits / 8e6 == case["size_MB"]
    dense, _ = totals(layers, {**case, "sparsity": 0.0, "custom": {}, "width": 1})
    assert flops / dense == case["flops_ratio"]
    if "train_ratio_deltaT100" in case:
        rigl = counting.training_flops_per_sample("dense_at_updates", dense, flops, frequency=100)
        assert rigl / (3 * dense) == pytest.approx(case["train_ratio_deltaT100"], rel=1e-15)


@pytest.mark.parametrize("network", list(NETWORKS))
def test_published_output_sizes(network):
    layers = (RESNET if network == "resnet50" else MOBILENETS[network])["layers"]
    for layer, golden in zip(NETWORKS[network], layers, strict=True):
        assert layer.positions == (golden["counted_output_size"] or 1) ** 2


def test_published_multiplications_additions_and_bits_of_every_dense_layer():
    for layer, golden in zip(NETWORKS["resnet50"], RESNET["layers"], strict=True):
        assert layer.flops(layer.size) == golden["dense_mults"] + golden["dense_adds"]
        assert layer.bits(layer.size) == golden["dense_bits"]


@pytest.mark.parametrize("row", RESNET["training_flops_ratio"]["rows"])
def test_published_training_ratios_of_rigl(row):
    (case,) = [case for case in RESNET["cases"] if (case["tag"], case["sparsity"]) == (row["tag"], row["sparsity"])]
    dense = RESNET["cases"][0]["flops"]
    assert case["flops"] / dense == row["inference"]
    for frequency in (100, 800):
        value = counting.training_flops_per_sample("dense_at_updates", dense, case["flops"], frequency)
        assert value / (3 * dense) == pytest.approx(row[f"train_1x_deltaT{frequency}"], rel=1e-15)


def test_published_average_of_gradual_pruning():
    # The published average has the first layer dense and the last one at 0.8 all along, also in
    # the network that it is divided by.
    custom = {"conv1/kernel:0": 0.0, "fc1000/kernel:0": 0.8}
    flops = []
    for step in range(0, 32001, 1000):
        progress = min(max((step - 10000) / 15000, 0.0), 1.0)
        sparsity = 0.8 * (1 - (1 - progress) ** 3)
        case = {"sparsity": sparsity, "method": "random", "custom": custom, "width": 1}
        flops.append(totals(NETWORKS["resnet50"], case)[0])
    average, ratio = RESNET["pruning_average_flops"]["0.8"]
    assert sum(flops) / len(flops) == pytest.approx(average, rel=1e-12)
    assert sum(flops) / len(flops) / flops[0] == pytest.approx(ratio, rel=1e-12)


def test_whole_weights_give_whole_numbers():
    layer = LayerShape("conv", (3, 3, 8, 16), input_size=7, stride=2)
    assert layer.positions == 16
    assert layer.flops(100) == 16 * (200 + 16) and type(layer.flops(100)) is int
    assert layer.bits(100) == 3200 + 1152 + 512 and type(layer.bits(100)) is int
    assert layer.bits(1152) == 32 * 1152 + 512


def test_depthwise_layers_have_an_output_per_channel_only_if_asked():
    layer = LayerShape("dw", (3, 3, 32, 1), input_size=112)
    assert (layer.bias, replace(layer, depthwise=True).bias) == (1, 32)


def test_scale_width_keeps_both_ends_and_rounds_down():
    layers = [LayerShape("a", (3, 3, 3, 9)), LayerShape("b", (9, 7)), LayerShape("c", (7, 10))]
    kernels = [layer.kernel for layer in scale_width(layers, 0.5)]
    assert kernels == [(3, 3, 3, 4), (4, 3), (3, 10)]


def anonymous(layers):
    return [replace(layer, name="") for layer in layers]


def test_published_layers():
    # The golden ResNet lists the shortcut of a block last, as ours does.
    assert anonymous(micronet.resnet50()) == anonymous(NETWORKS["resnet50"])
    assert anonymous(micronet.mobilenet_v1()) == anonymous(NETWORKS["colab"])
    assert anonymous(micronet.mobilenet_v1(modern=True)) == anonymous(NETWORKS["modern"])


# What the authors' notebook on MobileNet-v1 printed: bits of one network by those of another.
@pytest.mark.parametrize(
    ("sparsity", "width", "ratio"),
    [
        (0.75, 0.47, 0.9933069386323201),
        (0.85, 0.353, 0.9998127484496482),
        (0.9, 0.285, 0.9996546850118981),
        (0.95, 0.204, 0.9982463429660301),
        (0.75, 1.98, 1.0084815029856933),
        (0.85, 2.52, 1.0032864697591513),
        (0.9, 3.0, 1.0120353164650686),
        (0.95, 3.98, 1.0031304863290271),
    ],
)
def test_published_widths_of_small_dense_and_big_sparse_twins(sparsity, width, ratio):
    layers = micronet.mobilenet_v1()
    shapes = {layer.name: layer.kernel for layer in layers}
    sparse = distributions.sparsities(shapes, sparsity, distribution="erk", custom={"conv1": 0.0}, rounding="ceil")
    if width < 1:
        found = micronet.totals(layers, sparse).bits / micronet.totals(layers, width=width).bits
    else:
        found = micronet.totals(layers).bits / micronet.totals(layers, sparse, width).bits
    assert found == pytest.approx(ratio, rel=1e-15)
