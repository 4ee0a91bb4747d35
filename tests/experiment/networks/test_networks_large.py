"""The large networks: published sizes and geometry, names, seeds, and their layers against numpy."""

import collections
import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import api, distributions
from sparse_lib.experiment.networks import GRU, NETWORKS, VGG11, VGG16, VGG19, MobileNet, ResNet, Style, ViT, WideResNet
from sparse_lib.experiment.networks.common import Dropout
from sparse_lib.experiment.networks.resnet import PaddedShortcut
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.objective import Objective, call
from tests.replicas import two_replicas

IMAGENET, CIFAR = ((224, 224, 3), 1000), ((32, 32, 3), 10)
POOLED = {"classifier": "pooled"}


@functools.cache
def counted(network, image, **arguments):
    """A network whose weights have shapes and no values, which takes a tenth of the time."""
    with keras.StatelessScope():
        return network(**arguments).build(*image, Style())


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def count(variables):
    return sum(math.prod(v.shape) for v in variables)


@pytest.mark.parametrize(
    ("network", "image", "arguments", "published"),
    [
        # Evci et al. 2020: variables of their graphs.
        (WideResNet, CIFAR, {}, 1_079_642),
        (ResNet, IMAGENET, {}, 25_557_032),
        (VGG16, IMAGENET, POOLED, 15_222_464),
        (MobileNet, IMAGENET, {}, 4_231_976),
        (MobileNet, IMAGENET, {"version": 2}, 3_504_872),
        # torchvision's models.
        (ResNet, IMAGENET, {"depth": 18}, 11_689_512),
        slow(ResNet, IMAGENET, {"depth": 34}, 21_797_672),
        slow(ResNet, IMAGENET, {"version": "v1"}, 25_557_032),
        slow(VGG16, IMAGENET, {}, 138_357_544),
        slow(VGG11, IMAGENET, {}, 132_863_336),
        slow(VGG19, IMAGENET, {}, 143_667_240),
        # 9 input channels x output channels of every convolution, and 512 x 1000.
        (VGG11, IMAGENET, POOLED, 9 * 1_024_192 + 512_000),
        (VGG19, IMAGENET, POOLED, 9 * 2_224_320 + 512_000),
        # timm's resnetv2_50.
        (ResNet, IMAGENET, {"version": "v2"}, 25_549_352),
        # He et al. 2016, table 6: 0.27M, 0.46M, 0.66M; to the unit from common implementations.
        (ResNet, CIFAR, {"depth": 20}, 269_722),
        slow(ResNet, CIFAR, {"depth": 32}, 464_154),
        slow(ResNet, CIFAR, {"depth": 44}, 658_586),
        slow(ResNet, ((32, 32, 3), 100), {"depth": 50}, 23_705_252),
        slow(ResNet, CIFAR, {"depth": 18}, 11_173_962),
        # Zagoruyko & Komodakis 2016, table 4: 36.5M.
        slow(WideResNet, CIFAR, {"depth": 28, "width": 10}, 36_479_194),
        slow(WideResNet, CIFAR, {"depth": 16, "width": 8}, 10_961_370),
        # Touvron et al. 2021, table 1: 5M.
        (ViT, IMAGENET, {}, 5_717_416),
        # Embedding, GRU with two biases, two dense layers; the logits are tied to the embedding.
        (GRU, ((16,), 256), {}, 256 * 128 + 3 * 512 * (128 + 512 + 2) + 513 * 256 + 257 * 128),
    ],
)
def test_published_parameters(network, image, arguments, published):
    model = counted(network, image, **arguments)
    assert count(model.trainable_variables) == published
    assert model.output_shape == (None, image[1])


@pytest.mark.slow
def test_batch_norm_in_vgg16_adds_scale_and_shift():
    with keras.StatelessScope():
        model = VGG16(use_batch_norm=True).build(*IMAGENET, Style())
    # torchvision's.
    assert count(model.trainable_variables) == 138_365_992


@pytest.mark.parametrize(
    ("ours", "keras_maker", "without_conv_biases"),
    [
        ((MobileNet, {}), keras.applications.MobileNet, False),
        ((MobileNet, {"version": 2}), keras.applications.MobileNetV2, False),
        slow((MobileNet, {"width": 0.5}), functools.partial(keras.applications.MobileNet, alpha=0.5), False),
        ((ResNet, {}), keras.applications.ResNet50, True),
        slow((VGG16, {}), keras.applications.VGG16, False),
    ],
    ids=["mobilenet", "mobilenet-v2", "mobilenet-0.5", "resnet50", "vgg16"],
)
def test_kernels_are_those_of_keras(ours, keras_maker, without_conv_biases):
    network, arguments = ours
    with keras.StatelessScope():
        theirs = keras_maker(weights=None)

    def shapes(model):
        convolutions = {v.path for layer in model.layers if "Conv2D" in type(layer).__name__ for v in layer.weights}
        kept = [
            v.shape
            for v in model.trainable_variables
            if not (without_conv_biases and v.name == "bias" and v.path in convolutions)
        ]
        # Keras' logits of MobileNet-v1 are a convolution.
        return collections.Counter(tuple(n for n in shape if n > 1) for shape in kept)

    assert shapes(counted(network, IMAGENET, **arguments)) == shapes(theirs)


TF1 = {
    "wrn_22_2": (WideResNet, CIFAR, {}),
    "resnet50": (ResNet, IMAGENET, {}),
    "vgg16": (VGG16, IMAGENET, POOLED),
    "mobilenet_v1": (MobileNet, IMAGENET, {}),
    "mobilenet_v2": (MobileNet, IMAGENET, {"version": 2}),
}


KINDS = {
    keras.layers.Conv2D: "Conv2D",
    keras.layers.DepthwiseConv2D: "DepthwiseConv2dNative",
    keras.layers.MaxPooling2D: "MaxPool",
}


def operation(kind, stride, padding, image, kernel):
    if kernel and tuple(kernel[:2]) == (1, 1):
        # A window of one pixel needs no padding, and with a stride takes every second pixel, as we do beforehand.
        height, width, channels = image
        return kind, 1, "", (-(-height // stride), -(-width // stride), channels), tuple(kernel)
    return kind, stride, padding.upper(), tuple(image), tuple(kernel or ())


@pytest.mark.parametrize("name", TF1)
def test_geometry_is_that_of_the_published_graphs(name, golden):
    network, image, arguments = TF1[name]
    model, graph = counted(network, image, **arguments), golden("tf1_networks")[name]
    ours = collections.Counter(tuple(v.shape) for v in model.trainable_variables)
    assert ours == collections.Counter(tuple(shape) for _, shape in graph["variables"])
    found = [
        operation(
            KINDS[type(x)],
            x.strides[0],
            x.padding,
            x.input.shape[1:],
            getattr(getattr(x, "kernel", None), "shape", None),
        )
        for x in model.layers
        if type(x) in KINDS
    ]
    # Averages over whole images have no geometry.
    expected = [operation(*entry) for entry in graph["operations"] if entry[0] != "AvgPool"]
    assert collections.Counter(found) == collections.Counter(expected)


def test_where_a_bottleneck_has_its_stride():
    models = {"v1": counted(ResNet, IMAGENET, version="v1"), "v1.5": counted(ResNet, IMAGENET)}
    names = [f"group2_block0_conv{i}" for i in (1, 2, 3)]
    heights = {version: [model.get_layer(n).output.shape[1] for n in names] for version, model in models.items()}
    assert heights == {"v1": [28, 28, 28], "v1.5": [56, 28, 28]}


@pytest.mark.parametrize(
    ("image", "depth", "stem", "expected"),
    [
        ((224, 224, 3), 18, None, 7),
        ((64, 64, 3), 18, None, 3),
        ((32, 32, 3), 18, "imagenet", 7),
        ((224, 224, 3), 18, "cifar", 3),
        ((96, 96, 3), 8, None, 3),
    ],
)
def test_the_stem_of_a_resnet(image, depth, stem, expected):
    model = counted(ResNet, (image, 10), depth=depth, stem=stem)
    assert model.get_layer("stem").kernel_size == (expected, expected)
    assert any(layer.name == "stem_pool" for layer in model.layers) == (expected == 7)


def test_preactivation_blocks_are_those_of_the_paper():
    """He et al. 2016, arXiv 1603.05027: x + F(relu(norm(x))), with nothing after the addition."""
    model = ResNet(depth=8, width=0.5, version="v2").build((16, 16, 3), 10, Style(seed=1))
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("gamma", "beta", "moving_mean"):
            variable.assign(random.normal(size=variable.shape))
    layer, images = model.get_layer, random.normal(size=(2, 16, 16, 3)).astype(np.float32)
    x = layer("stem")(images)
    for group in (1, 2, 3):
        name = f"group{group}_block0"
        active = tf.nn.relu(layer(f"{name}_pre_norm")(x))
        shortcut = x
        if group > 1:
            shortcut = tf.pad(active[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [0, active.shape[-1]]])
        y = active if group == 1 else tf.pad(active, [[0, 0], [1, 1], [1, 1], [0, 0]])
        y = tf.nn.relu(layer(f"{name}_conv1_norm")(layer(f"{name}_conv1")(y)))
        x = shortcut + layer(f"{name}_conv2")(y)
    pooled = tf.reduce_mean(tf.nn.relu(layer("last_norm")(x)), [1, 2])
    np.testing.assert_allclose(model(images), layer("logits")(pooled), rtol=1e-4, atol=1e-4)


# The deep ones repeat what the others show.
DEEP = ("resnet18", "mobilenet_v2")
SMALL = {
    "wide_resnet": (WideResNet, ((16, 16, 3), 10), {"depth": 10, "width": 0.5}),
    "resnet8": (ResNet, ((16, 16, 3), 10), {"depth": 8, "width": 0.5}),
    "resnet18": (ResNet, ((16, 16, 3), 10), {"depth": 18, "width": 0.125}),
    "resnet8_v2": (ResNet, ((16, 16, 3), 10), {"depth": 8, "width": 0.5, "version": "v2"}),
    "vgg16": (VGG16, ((32, 32, 3), 10), {"width": 0.0625}),
    "mobilenet_v1": (MobileNet, ((32, 32, 3), 10), {"width": 0.25}),
    "mobilenet_v2": (MobileNet, ((32, 32, 3), 10), {"width": 0.25, "version": 2}),
    "vit": (ViT, ((16, 16, 3), 10), {"patch_size": 8, "depth": 1, "width": 0.125, "dropout": 0.1}),
    "gru": (GRU, ((6, 1, 1), 20), {"width": 0.0625}),
}


NAMES = [slow(name) if name in DEEP else name for name in SMALL]


def small(name, seed=0, **style):
    network, image, arguments = SMALL[name]
    return network(**arguments).build(*image, Style(seed=seed, **style))


@functools.cache
def built(name):
    return small(name)


def inputs_of(model, n=3):
    random = np.random.default_rng(0)
    shape = (n, *model.input_shape[1:])
    return (random.integers(0, 20, shape) if model.name == "gru" else random.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_initial_weights_are_a_function_of_the_seed(name):
    one, same, other = built(name), small(name), small(name, seed=4)
    paths = [v.path for v in one.variables]
    assert paths == [v.path for v in same.variables] and len(set(paths)) == len(paths)
    assert [layer.name for layer in one.layers[1:]] == [layer.name for layer in same.layers[1:]]
    kernels = api.sparse_kernels(one)
    for kernel, twin, stranger in zip(*(api.sparse_kernels(m).values() for m in (one, same, other)), strict=True):
        np.testing.assert_array_equal(kernel.numpy(), twin.numpy())
        assert (kernel.numpy() != stranger.numpy()).mean() > 0.99
    # Layers of one shape are drawn apart, those of one attention too.
    drawn = [kernel.numpy().tobytes() for kernel in kernels.values()]
    assert len(set(drawn)) == len(drawn)
    assert np.isfinite(one(inputs_of(one)).numpy()).all()


@pytest.mark.parametrize(
    ("name", "sparse", "dense"),
    [
        ("wide_resnet", {"stem", "group2_block0_shortcut", "logits"}, set()),
        ("mobilenet_v1", {"stem", "block0_contraction", "logits"}, {"block0_depthwise"}),
        ("vit", {"patches", "query", "key", "value", "attention_output", "block0_dense2", "logits"}, {"positions"}),
        ("gru", {"gru_cell", "dense1", "dense2"}, {"embedding"}),
    ],
)
def test_sparse_kernels(name, sparse, dense):
    owners = {path.split("/")[-2] for path in (v.path for v in api.sparse_kernels(built(name)).values())}
    assert sparse <= owners and not dense & owners
    if name == "gru":
        assert {v.name for v in api.sparse_kernels(built(name)).values()} == {"kernel", "recurrent_kernel"}


def test_the_str_table_fits_resnet50():
    kernels = api.sparse_kernels(counted(ResNet, IMAGENET))
    shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
    assert next(iter(shapes)) == "stem/kernel" and list(shapes)[-1] == "logits/kernel"
    overall = distributions.str_table_sparsities()[0]
    counts = distributions.nnz(shapes, overall, distribution="str")
    total = sum(math.prod(shape) for shape in shapes.values())
    assert 1 - sum(counts.values()) / total == pytest.approx(overall, abs=2e-3)


@pytest.mark.parametrize(
    ("network", "arguments", "layer", "stddev"),
    [
        (WideResNet, {"width": 1}, "group3_block1_conv1", math.sqrt(2 / (9 * 64 + 9 * 64))),
        (ResNet, {"depth": 18, "width": 0.5}, "group3_block1_conv1", math.sqrt(1 / (9 * 128))),
        (ResNet, {"depth": 18, "width": 0.5}, "logits", 0.01),
        (VGG16, {"width": 0.25}, "conv5_1", math.sqrt(2 / (9 * 128))),
        (MobileNet, {"width": 0.5}, "block9_contraction", math.sqrt(1 / 256)),
    ],
)
def test_initial_variances_are_the_published_ones(network, arguments, layer, stddev):
    kernel = network(**arguments).build(*CIFAR, Style()).get_layer(layer).kernel.numpy()
    assert kernel.std() == pytest.approx(stddev, rel=0.03)
    assert abs(kernel.mean()) < 4 * stddev / math.sqrt(kernel.size)


def test_attention_starts_as_glorot_of_its_matrices():
    model = ViT(patch_size=8, depth=1).build((16, 16, 3), 10, Style())
    kernels = [v.numpy() for v in model.get_layer("block0_attention").trainable_variables if v.name == "kernel"]
    assert [k.size for k in kernels] == [192 * 192] * 4
    for kernel in kernels:
        assert kernel.std() == pytest.approx(math.sqrt(1 / 192), rel=0.02) and abs(kernel).max() <= math.sqrt(3 / 192)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_that_of_the_sparse_kernels(name):
    model = small(name, weight_decay=0.01)
    model(inputs_of(model))
    squares = sum(float(np.sum(kernel.numpy() ** 2)) for kernel in api.sparse_kernels(model).values())
    assert sum(map(float, model.losses)) == pytest.approx(0.01 * squares, rel=1e-5)


@pytest.mark.parametrize("name", [slow(name) for name in SMALL])
def test_a_gradient_compiles_under_xla(name):
    model = built(name)
    x, y = tf.constant(inputs_of(model)), tf.constant([1, 0, 2])
    objective = Objective(model)
    # Small images leave a MobileNet one pixel, and its normalisation three numbers to amplify rounding by.
    training = not name.startswith("mobilenet")

    def gradient():
        return objective.gradient(objective.params(), x, y, training=training)

    plain, compiled = (tf.function(gradient, jit_compile=jit, autograph=False)() for jit in (False, True))
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_the_activation_is_that_of_the_style():
    for name in ("wide_resnet", "vgg16", "mobilenet_v1", "gru"):
        model = small(name, activation="silu")
        found = {x.activation.__name__ for x in model.layers if isinstance(x, keras.layers.Activation)}
        assert found == {"silu"}


def test_residual_blocks_start_as_identities_with_zero_gamma():
    model = ResNet(depth=14, width=0.5).build((16, 16, 3), 10, Style())
    block = keras.Model(model.get_layer("group1_block0_act").output, model.get_layer("group1_block1_act").output)
    x = np.abs(np.random.default_rng(0).normal(size=(2, 16, 16, 8))).astype(np.float32)
    np.testing.assert_array_equal(block(x), x)
    gammas = {v.path: v.numpy() for v in model.trainable_variables if v.name == "gamma"}
    zero = [path for path, value in gammas.items() if not value.any()]
    assert len(zero) == 6 and all("last_norm" in path for path in zero)
    plain = ResNet(depth=8, zero_gamma=False).build((16, 16, 3), 10, Style())
    assert all(v.numpy().all() for v in plain.trainable_variables if v.name == "gamma")


def test_a_shortcut_without_weights_by_hand():
    x = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    found = PaddedShortcut(5, 2)(x).numpy()
    assert found.shape == (2, 2, 2, 5)
    np.testing.assert_array_equal(found[..., :3], x[:, [0, 2]][:, :, [0, 2]])
    assert not found[..., 3:].any()


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_the_vision_transformer_against_numpy():
    model = ViT(patch_size=2, depth=1, heads=2, width=0.0625).build((4, 4, 3), 5, Style(activation="gelu"))
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape) * 0.5)
    w = {v.path: v.numpy().astype(float) for v in model.trainable_variables}
    image = random.normal(size=(4, 4, 3))

    def normed(x, name):
        centred = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return centred * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def dense(x, name):
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    patches = [image[i : i + 2, j : j + 2].reshape(-1) for i in (0, 2) for j in (0, 2)]
    tokens = np.stack(patches) @ w["patches/kernel"].reshape(12, 8) + w["patches/bias"]
    x = np.concatenate([w["positions/token"][0], tokens]) + w["positions/positions"][0]
    y = normed(x, "block0_attention_norm")
    q, k, v = (
        np.einsum("tc,chd->htd", y, w[f"block0_attention/{n}/kernel"]) + w[f"block0_attention/{n}/bias"][:, None]
        for n in ("query", "key", "value")
    )
    scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(4))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    output = "block0_attention/attention_output"
    x = x + np.einsum("htd,hdc->tc", mixed, w[f"{output}/kernel"]) + w[f"{output}/bias"]
    y = gelu(dense(normed(x, "block0_dense_norm"), "block0_dense1"))
    x = x + dense(y, "block0_dense2")
    expected = dense(normed(x, "last_norm")[0], "logits")
    np.testing.assert_allclose(model(image[None].astype(np.float32))[0], expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("every_position", [False, True])
def test_the_character_model_against_numpy(every_position):
    model = GRU(width=0.03).build((5,), 7, Style(), every_position=every_position)
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    w = {v.path: v.numpy().astype(float) for v in model.trainable_variables}
    embedding, bias = w["embedding/embeddings"], w["state/gru_cell/bias"]
    characters = np.array([3, 0, 6, 1, 1])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    state, states = np.zeros(w["dense1/kernel"].shape[0]), []
    for character in characters:
        a = np.split(embedding[character] @ w["state/gru_cell/kernel"] + bias[0], 3)
        b = np.split(state @ w["state/gru_cell/recurrent_kernel"] + bias[1], 3)
        update, reset = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
        state = update * state + (1 - update) * np.tanh(a[2] + reset * b[2])
        states.append(state)
    seen = np.stack(states) if every_position else state
    hidden = np.maximum(seen @ w["dense1/kernel"] + w["dense1/bias"], 0)
    expected = (hidden @ w["dense2/kernel"] + w["dense2/bias"]) @ embedding.T
    np.testing.assert_allclose(model(characters[None].astype(np.float32))[0], expected, rtol=1e-4, atol=1e-4)


def test_dropout_does_not_change_the_initial_weights():
    with_noise, without = (WideResNet(depth=10, width=0.5, dropout=rate).build(*CIFAR, Style()) for rate in (0.3, 0.0))
    for one, other in zip(with_noise.trainable_variables, without.trainable_variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_dropout_keeps_the_mean_and_moves_on():
    layer = Dropout(0.3, seed=5, name="drop")
    x = tf.ones((200, 500))
    first, second = layer(x, training=True).numpy(), layer(x, training=True).numpy()
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (first == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert ((first == 0) & (second == 0)).mean() == pytest.approx(0.09, abs=0.01)
    np.testing.assert_array_equal(layer(x), x)
    twin = Dropout(0.3, seed=5, name="drop")
    np.testing.assert_array_equal(twin(x, training=True), first)
    assert [v.path for v in twin.variables] == [v.path for v in layer.variables] == ["drop_noise/seed_generator_state"]
    other = Dropout.from_config({**layer.get_config(), "seed": 6})(x, training=True).numpy()
    assert ((first == 0) & (other == 0)).mean() == pytest.approx(0.09, abs=0.01)


def test_dropout_differs_between_replicas_and_measurements_do_not_move_it():
    layer = Dropout(0.5, seed=5, name="drop")
    model = keras.Sequential([keras.Input((50,)), layer])
    before = layer.noise.state.numpy()
    call(model, [], [], tf.ones((4, 50)), training=True)
    np.testing.assert_array_equal(layer.noise.state.numpy(), before)
    strategy = two_replicas()
    with strategy.scope():
        mirrored = Dropout(0.5, seed=5, name="drop")

        @tf.function
        def step():
            return strategy.run(lambda: mirrored(tf.ones((400, 50)), training=True))

        one, other = (part.numpy() for part in strategy.experimental_local_results(step()))
    assert 0.2 < ((one == 0) & (other == 0)).mean() < 0.3


@pytest.mark.parametrize("name", [*map(slow, ["resnet", "mobilenet", "vit"]), "wide_resnet", "gru", "lenet5", "mlp"])
def test_scaled_sizes_have_fewer_parameters(name):
    image = ((16,), 10) if name == "gru" else CIFAR
    kind = NETWORKS[name]()
    with keras.StatelessScope():
        whole, half = (count(s.build(*image, Style()).trainable_variables) for s in (kind, kind.scale_width(0.5)))
    assert 0.2 * whole < half < 0.6 * whole


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"wide_resnet\.depth is 6 n \+ 4"):
        WideResNet(depth=20).build(*CIFAR, Style())
    with pytest.raises(ValueError, match=r"resnet\.depth is one of 18, 34"):
        ResNet(depth=51).build(*CIFAR, Style())
    with pytest.raises(ValueError, match=r"vit\.patch_size=16 does not divide images of 28x28"):
        ViT().build((28, 28, 1), 10, Style())
    with pytest.raises(SettingError, match=r"wide_resnet\.dropout=1\.0 must be at least 0 and below 1"):
        WideResNet(depth=10, dropout=1.0)
    with pytest.raises(SettingError, match=r"resnet\.width=0\.0 must be above 0"):
        ResNet(width=0.0)
    with pytest.raises(SettingError, match=r"mobilenet\.version=3 must be 1 or 2"):
        MobileNet(version=3)


def shares(strategy, values):
    """A part of the values for each replica."""
    parts = np.split(values, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda c: tf.constant(parts[c.replica_id_in_sync_group])
    )


@pytest.mark.parametrize("synchronised", [True, False])
def test_batch_norm_over_replicas(synchronised):
    """Synchronised, two replicas see what one device sees; else they do not."""
    style = Style(sync_batch_norm=synchronised)
    image, arguments = ((8, 8, 3), 4), {"depth": 8, "width": 0.25, "zero_gamma": False}
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    alone = ResNet(**arguments).build(*image, Style())
    expected = alone(x, training=True)
    strategy = two_replicas()
    with strategy.scope():
        model = ResNet(**arguments).build(*image, style)
        step = tf.function(lambda part: strategy.run(lambda rows: model(rows, training=True), (part,)))
        found = tf.concat(strategy.experimental_local_results(step(shares(strategy, x))), 0)
    assert np.allclose(found, expected, atol=1e-5) == synchronised
    moments = [
        (v.numpy(), w.numpy())
        for v, w in zip(alone.non_trainable_variables, model.non_trainable_variables, strict=True)
    ]
    assert all(np.allclose(one, other, atol=1e-6) for one, other in moments) == synchronised
