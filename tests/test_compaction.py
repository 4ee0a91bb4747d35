"""Smaller dense models with the same outputs."""

import keras
import numpy as np
import pytest

import sparse_lib
from sparse_lib.deployment import remove_dead_channels

L = keras.layers
TOLERANCE = 1e-5


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Gives every weight a value of its own, biases and statistics of normalisation, too."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            randomize(layer, seed)
            continue
        kinds = [weight.name for weight in layer.weights]
        values = [
            rng.uniform(0.5, 1.5, w.shape) if kind in ("moving_variance", "gamma") else rng.normal(0, 0.5, w.shape)
            for kind, w in zip(kinds, layer.weights, strict=True)
        ]
        layer.set_weights(values)


def cut(layer: keras.Layer, outputs: object = (), inputs: object = ()) -> None:
    """Zeroes the kernel on some output and some input channels."""
    kernel, *rest = layer.get_weights()
    kernel[..., list(outputs)] = 0
    kernel[..., list(inputs), :] = 0
    layer.set_weights([kernel, *rest])


def images(model: keras.Model, n: int = 3) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, *model.inputs[0].shape[1:])).astype("float32")


def same_outputs(model: keras.Model, smaller: keras.Model, *, vary: bool = True) -> None:
    x = images(model)
    for one, other in zip(
        keras.tree.flatten(model(x, training=False)), keras.tree.flatten(smaller(x, training=False)), strict=True
    ):
        scale = np.abs(one).max()
        # Outputs that do not depend on the input would agree whatever else was removed.
        assert (np.ptp(one, axis=0).max() > 1e-2 * scale) == vary
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * scale)


def compacted(model: keras.Model, *, vary: bool = True) -> dict[str, tuple[int, int]]:
    """Asserts that outputs are the same, now and once saved, and returns the widths that changed."""
    before = [w.numpy() for w in model.weights]
    found = remove_dead_channels(model)
    same_outputs(model, found.model, vary=vary)
    assert all((w.numpy() == b).all() for w, b in zip(model.weights, before, strict=True))
    assert found.parameters == (model.count_params(), found.model.count_params())
    return dict(found.widths)


def chain(*layers: keras.Layer, shape: tuple[int, ...] = (10, 10, 2)) -> keras.Sequential:
    model = keras.Sequential([keras.Input(shape), *layers])
    randomize(model)
    return model


def lenet5() -> keras.Sequential:
    return chain(
        L.Conv2D(6, 5, activation="relu", name="conv1"),
        L.MaxPooling2D(),
        L.Conv2D(8, 3, activation="relu", name="conv2"),
        L.Flatten(),
        L.Dense(12, "relu", name="dense1"),
        L.Dense(9, "tanh", name="dense2"),
        L.Dense(3, name="logits"),
        shape=(16, 16, 1),
    )


def test_lenet5():
    model = lenet5()
    cut(model.get_layer("conv1"), outputs=[0, 2])
    cut(model.get_layer("conv2"), outputs=[1])
    cut(model.get_layer("dense1"), outputs=range(4))
    cut(model.get_layer("logits"), inputs=[0, 1])
    widths = compacted(model)
    assert widths == {"conv1": (6, 4), "conv2": (8, 7), "dense1": (12, 8), "dense2": (9, 7)}


def test_widths_of_kernels_follow_and_nothing_else_changes():
    model = lenet5()
    cut(model.get_layer("conv1"), outputs=[0])
    cut(model.get_layer("conv2"), outputs=[1])
    smaller = remove_dead_channels(model).model
    shapes = [tuple(w.shape) for w in smaller.weights]
    flat = 4 * 4 * 7
    assert shapes[:6] == [(5, 5, 1, 5), (5,), (3, 3, 5, 7), (7,), (flat, 12), (12,)]
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]
    kernel = np.delete(np.delete(model.get_layer("conv2").kernel.numpy(), 0, 2), 1, 3)
    np.testing.assert_array_equal(smaller.get_layer("conv2").kernel, kernel)


def test_a_network_without_dead_units_stays():
    model = lenet5()
    assert compacted(model) == {}


def test_a_unit_on_constant_units_is_constant():
    model = chain(L.Dense(6, "relu", name="a"), L.Dense(6, "sigmoid", name="b"), L.Dense(3, name="logits"), shape=(4,))
    cut(model.get_layer("a"), outputs=[1, 2])
    kernel, bias = model.get_layer("b").get_weights()
    kernel[[0, 3, 4, 5], 0] = 0
    model.get_layer("b").set_weights([kernel, bias])
    assert compacted(model) == {"a": (6, 4), "b": (6, 5)}


def test_a_unit_that_only_unread_units_read_is_unread():
    model = chain(L.Dense(6, "relu", name="a"), L.Dense(6, "relu", name="b"), L.Dense(3, name="logits"), shape=(4,))
    cut(model.get_layer("logits"), inputs=[0, 1])
    kernel, bias = model.get_layer("b").get_weights()
    kernel[5, 2:] = 0
    model.get_layer("b").set_weights([kernel, bias])
    assert compacted(model) == {"a": (6, 5), "b": (6, 4)}


@pytest.mark.parametrize(
    ("padding", "size", "bias", "kept"),
    [
        ("valid", 3, 0.7, 3),
        ("same", 1, 0.7, 3),
        ("same", 3, 0.0, 3),
        ("same", 3, -0.7, 3),  # the rectifier makes it 0
        ("same", 3, 0.7, 4),
    ],
)
def test_a_constant_at_the_border(padding, size, bias, kept):
    model = chain(L.Conv2D(4, 3, activation="relu", name="first"), L.Conv2D(5, size, padding=padding, name="second"))
    cut(model.get_layer("first"), outputs=[1])
    model.get_layer("first").bias.assign([0.1, bias, 0.2, 0.3])
    assert compacted(model) == ({} if kept == 4 else {"first": (4, kept)})


def test_a_layer_without_bias_gets_one_where_a_constant_needs_it():
    model = chain(L.Conv2D(4, 3, name="first"), L.Conv2D(5, 3, use_bias=False, name="second"), L.Flatten(), L.Dense(2))
    cut(model.get_layer("first"), outputs=[1])
    assert compacted(model) == {"first": (4, 3)}
    assert remove_dead_channels(model).model.get_layer("second").use_bias
    first = model.get_layer("first")
    first.bias.assign([1.0, 0.0, 1.0, 1.0])
    assert not remove_dead_channels(model).model.get_layer("second").use_bias


def test_normalisation_with_a_gain_of_zero():
    model = chain(L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="norm"), L.ReLU(), L.Conv2D(3, 3, name="out"))
    norm = model.get_layer("norm")
    norm.gamma.assign([1.0, 0.0, 2.0, 0.0])
    assert compacted(model) == {"conv": (4, 2), "norm": (4, 2)}


def residual(*, both: bool) -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(image)
    x = L.ReLU()(L.BatchNormalization(name="norm0")(x))
    y = L.Conv2D(7, 3, padding="same", use_bias=False, name="inner")(x)
    y = L.ReLU()(L.BatchNormalization(name="norm1")(y))
    y = L.BatchNormalization(name="norm2")(L.Conv2D(6, 3, padding="same", use_bias=False, name="outer")(y))
    x = L.Activation("relu")(L.Add()([x, y]))
    model = keras.Model(image, L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(x)))
    randomize(model)
    # Constants are 0, as those of networks that were trained with dead channels are not: see the test of borders.
    for name in ("norm0", "norm1"):
        norm = model.get_layer(name)
        norm.beta.assign(-np.abs(norm.beta) - 1)
        norm.moving_mean.assign(np.abs(norm.moving_mean))
    cut(model.get_layer("inner"), outputs=[0, 6])
    cut(model.get_layer("outer"), outputs=[2, 3])
    cut(model.get_layer("stem"), outputs=[3] if both else [])
    return model


def test_a_residual_channel_goes_only_from_all_branches():
    assert compacted(residual(both=False)) == {"inner": (7, 5), "norm1": (7, 5)}
    widths = compacted(residual(both=True))
    assert widths == dict.fromkeys(("stem", "norm0", "outer", "norm2"), (6, 5)) | {
        "inner": (7, 5),
        "norm1": (7, 5),
    }


def test_a_sum_written_with_plus_is_a_sum():
    inputs = keras.Input((5,))
    a, b = L.Dense(6, name="a")(inputs), L.Dense(6, name="b")(inputs)
    model = keras.Model(inputs, L.Dense(2)(a + b))
    randomize(model)
    cut(model.get_layer("a"), outputs=[0, 1])
    cut(model.get_layer("b"), outputs=[1, 2])
    assert compacted(model) == {"a": (6, 5), "b": (6, 5)}


def test_a_channel_that_is_multiplied_by_zero_goes_from_all_branches():
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, name="conv")(inputs)
    s = L.Reshape((1, 1, 8))(L.Dense(8, "relu", name="gate")(L.GlobalAveragePooling2D()(x)))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalMaxPooling2D()(L.Multiply()([x, s]))))
    randomize(model)
    gate = model.get_layer("gate")
    cut(gate, outputs=[2])
    gate.bias.assign(-np.abs(gate.bias))
    # The gate reads the channel, too.
    assert compacted(model) == {}
    cut(gate, inputs=[2])
    assert compacted(model) == {"conv": (8, 7), "gate": (8, 7)}


def test_concatenation():
    inputs = keras.Input((8, 8, 2))
    a = L.Conv2D(4, 3, activation="relu", name="a")(inputs)
    b = L.AveragePooling2D(3, 1)(L.Conv2D(5, 1, name="b")(inputs))
    model = keras.Model(inputs, L.Flatten()(L.Conv2D(3, 2, name="out")(L.Concatenate()([a, b]))))
    randomize(model)
    cut(model.get_layer("a"), outputs=[0])
    cut(model.get_layer("out"), inputs=[4, 8])
    assert compacted(model) == {"a": (4, 3), "b": (5, 3)}


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise(multiplier):
    model = chain(
        L.Conv2D(5, 1, activation="relu", name="first"),
        L.DepthwiseConv2D(3, depth_multiplier=multiplier, activation="relu6", name="depthwise"),
        L.Conv2D(4, 1, name="out"),
    )
    cut(model.get_layer("first"), outputs=[0])
    kernel, bias = model.get_layer("depthwise").get_weights()
    kernel[:, :, 2] = 0
    model.get_layer("depthwise").set_weights([kernel, bias])
    cut(model.get_layer("out"), inputs=range(4 * multiplier, 5 * multiplier))
    assert compacted(model) == {"first": (5, 2), "depthwise": (5 * multiplier, 2 * multiplier)}


def test_half_of_the_outputs_of_a_depthwise_channel_cannot_go():
    depthwise = L.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")
    model = chain(L.Conv2D(5, 1, name="first"), depthwise, L.Conv2D(4, 1, name="out"))
    cut(model.get_layer("out"), inputs=[0, 1, 3, 4])
    assert compacted(model) == {"first": (5, 4), "depthwise": (10, 8)}


def test_one_dimension_and_three():
    line = chain(
        L.Conv1D(5, 3, name="a"), L.MaxPooling1D(), L.Conv1D(4, 3, padding="causal", name="b"), L.Flatten(), L.Dense(2),
        shape=(12, 2),
    )  # fmt: skip
    cut(line.get_layer("a"), outputs=[0])
    line.get_layer("a").bias.assign(np.zeros(5))
    cut(line.get_layer("b"), outputs=[1])
    assert compacted(line) == {"a": (5, 4), "b": (4, 3)}
    solid = chain(L.Conv3D(4, 2, name="a"), L.ZeroPadding3D(), L.Conv3D(3, 2, name="b"), shape=(4, 4, 4, 2))
    cut(solid.get_layer("a"), outputs=[0, 1])
    solid.get_layer("a").bias.assign([0.0, 1.0, 1.0, 1.0])
    assert compacted(solid) == {"a": (4, 3)}


def test_a_shared_layer_and_constants_that_differ():
    inputs = keras.Input((4,))
    a, b = L.Dense(5, name="a")(inputs), L.Dense(5, name="b")(inputs)
    shared = L.Dense(6, "relu", name="shared")
    model = keras.Model(inputs, L.Dense(2)(L.Concatenate()([shared(a), shared(b)])))
    randomize(model)
    cut(model.get_layer("a"), outputs=[0, 1])
    cut(model.get_layer("b"), outputs=[0, 1])
    for name in ("a", "b"):
        bias = model.get_layer(name).bias.numpy()
        bias[0] = 0.5
        model.get_layer(name).bias.assign(bias)
    cut(model.get_layer("shared"), outputs=[3])
    # Channel 1 has another constant in each call, so that no one bias can hold both.
    assert compacted(model) == {"a": (5, 4), "b": (5, 4), "shared": (6, 5)}


def test_a_shared_layer_of_which_one_call_is_read():
    a, b = keras.Input((4,)), keras.Input((4,))
    shared = L.Dense(6, "relu", name="shared")
    heads = [L.Dense(2, name=name)(shared(x)) for name, x in (("one", a), ("other", b))]
    model = keras.Model([a, b], L.Concatenate()(heads))
    randomize(model)
    cut(model.get_layer("one"), inputs=[1, 3])
    cut(model.get_layer("other"), inputs=[3, 5])
    found = remove_dead_channels(model)
    assert found.widths == {"shared": (6, 5)}
    x = [np.random.default_rng(n).normal(size=(3, 4)).astype("float32") for n in range(2)]
    np.testing.assert_allclose(found.model(x), model(x), rtol=0, atol=TOLERANCE)


def test_an_activation_that_is_called_on_other_widths():
    inputs = keras.Input((4,))
    relu = L.ReLU()
    x = relu(L.Dense(7, name="b")(relu(L.Dense(5, name="a")(inputs))))
    model = keras.Model(inputs, L.Dense(2)(x))
    randomize(model)
    cut(model.get_layer("a"), outputs=[0])
    cut(model.get_layer("b"), outputs=[0])
    assert compacted(model) == {"a": (5, 4), "b": (7, 6)}


def test_a_reshape_that_is_called_on_other_shapes():
    inputs = keras.Input((4, 4, 2))
    flat = L.Reshape((-1,))
    small = L.Conv2D(6, 3, name="small")(inputs)
    large = L.Conv2D(5, 1, name="large")(inputs)
    flatter = L.Reshape((8, 1, 3))
    wide, tall = flatter(L.Dense(24, name="wide")(flat(small))), flatter(L.Reshape((2, 4, 3))(L.Dense(24)(flat(large))))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Add()([wide, tall]))))
    randomize(model)
    for name in ("small", "large", "wide"):
        cut(model.get_layer(name), outputs=[0])
    assert compacted(model) == {}


def test_a_constant_under_pooling_with_padding():
    model = chain(
        L.Conv2D(4, 3, name="first"),
        L.AveragePooling2D(3, 1, padding="same"),
        L.MaxPooling2D(3, 2, padding="same"),
        L.Conv2D(3, 2, name="second"),
    )
    cut(model.get_layer("first"), outputs=[1, 3])
    assert compacted(model) == {"first": (4, 2)}


def test_nested_models():
    inner = chain(L.Dense(6, "relu", name="hidden"), L.Dense(5, "relu", name="features"), shape=(4,))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Dense(2)(inner(L.Dense(4, name="before")(inputs))))
    randomize(model)
    for name in ("before", "hidden", "features"):
        layer = model.get_layer(name) if name == "before" else inner.get_layer(name)
        cut(layer, outputs=[1])
    # A nested model keeps its inputs.
    assert compacted(model) == {"hidden": (6, 5), "features": (5, 4)}


def test_what_is_unknown_keeps_its_channels():
    inputs = keras.Input((6, 4))
    x = L.Dense(8, name="a")(inputs)
    x = L.LayerNormalization()(x)
    x = L.Dense(8, "softmax", name="b")(x)
    x = L.MultiHeadAttention(2, 4)(x, x)
    model = keras.Model(inputs, L.Dense(2, name="out")(L.Dense(8, name="c")(x)))
    randomize(model)
    for name in "abc":
        cut(model.get_layer(name), outputs=[0])
    assert compacted(model) == {"c": (8, 7)}


def test_a_layer_keeps_one_unit_at_least():
    model = chain(L.Dense(4, "relu", name="a"), L.Dense(4, "relu", name="b"), L.Dense(3, name="logits"), shape=(4,))
    cut(model.get_layer("b"), outputs=range(4))
    assert compacted(model, vary=False) == {"a": (4, 1), "b": (4, 1)}


def random_graph(seed: int) -> keras.Model:
    """Returns layers that read any tensors before them, with many weights, biases and gains of zero."""
    rng = np.random.default_rng(seed)
    image = keras.Input((9, 9, 2))
    tensors = [L.Conv2D(5, 3, padding="same")(image)]

    def earlier() -> keras.KerasTensor:
        return tensors[rng.integers(len(tensors))]

    def activation() -> str:
        return str(rng.choice(["linear", "relu", "sigmoid", "tanh"]))

    makers = [
        lambda: L.Conv2D(5, int(rng.choice([1, 3])), padding="same", activation=activation())(earlier()),
        lambda: L.Conv2D(5, 1, use_bias=False)(L.Concatenate()([earlier(), earlier()])),
        lambda: L.DepthwiseConv2D(3, padding="same", activation=activation())(earlier()),
        lambda: L.BatchNormalization()(earlier()),
        lambda: L.ReLU()(earlier()),
        lambda: L.MaxPooling2D(3, 1, padding="same")(earlier()),
        lambda: L.Add()([earlier(), earlier()]),
        lambda: L.Multiply()([earlier(), earlier()]),
        lambda: earlier() - earlier(),
    ]
    for _ in range(8):
        tensors.append(makers[rng.integers(len(makers))]())
    x = L.Flatten()(L.Conv2D(6, 3, activation=activation())(tensors[-1]))
    model = keras.Model(image, L.Dense(3, name="logits")(L.Dense(8, activation())(x)))
    randomize(model, seed)
    for layer in model.layers:
        weights = [np.where(rng.random(w.shape) < (0.3 if w.ndim == 1 else 0.5), 0, w) for w in layer.get_weights()]
        layer.set_weights(weights)
        if isinstance(layer, (L.Dense, L.Conv2D)) and layer.name != "logits":
            cut(layer, outputs=np.flatnonzero(rng.random(weights[0].shape[-1]) < 0.4))
    return model


# Of other seeds some let nothing of the input through.
@pytest.mark.parametrize("seed", [0, 1, 3, 5, 6, 7])
def test_random_graphs(seed):
    model = random_graph(seed)
    assert compacted(model) != {}
    assert remove_dead_channels(remove_dead_channels(model).model).widths == {}


def test_channel_masks_make_a_smaller_model_that_any_keras_loads(tmp_path):
    model = lenet5()
    masks = sparse_lib.sparsify(model, 0.5, "uniform", masks="random", structure=sparse_lib.Channel(), exclude="logits")
    model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(), masks, sparse_lib.Static()), "mse")
    found = remove_dead_channels(model)
    assert found.widths == {"conv1": (6, 3), "conv2": (8, 4), "dense1": (12, 6), "dense2": (9, 4)}
    found.model.save(tmp_path / "small.keras")
    same_outputs(model, keras.models.load_model(tmp_path / "small.keras"))
    assert found.report().splitlines()[1].split() == ["conv1", "6", "3"]


def test_mobilenet_of_keras():
    model = keras.applications.MobileNet((64, 64, 3), alpha=0.25, weights=None, classes=5, classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, (L.Conv2D, L.DepthwiseConv2D)):
            kernel, *bias = layer.get_weights()
            # Signals neither vanish nor saturate, although half of the channels are dead.
            fan_in = np.prod(kernel.shape[: 2 if isinstance(layer, L.DepthwiseConv2D) else 3])
            layer.set_weights([rng.normal(0, 2 / np.sqrt(fan_in), kernel.shape), *bias])
        if isinstance(layer, L.BatchNormalization):
            # What a dead channel emits is negative, and rectified to 0.
            layer.beta.assign(-np.abs(rng.normal(0, 0.1, layer.beta.shape)))
            layer.moving_mean.assign(np.abs(rng.normal(0, 0.1, layer.beta.shape)))
    sparse_lib.sparsify(model, 0.5, "uniform", masks="random", structure=sparse_lib.Channel(), exclude="conv_preds")
    widths = compacted(model)
    assert widths["conv_pw_13"] == (256, 128)
    assert widths["conv_dw_13"] == (256, 128)


def test_a_layer_called_with_arguments_keeps_its_channels():
    inputs = keras.Input((3,))
    dense = L.Dense(4)
    model = keras.Model(inputs, L.Dense(2)(L.BatchNormalization()(dense(inputs), training=True)))
    kernel = np.random.default_rng(0).normal(size=(3, 4))
    kernel[:, 1] = 0
    dense.set_weights([kernel, np.array([0.1, 0.7, -0.2, 0.3])])
    model.layers[-1].bias.assign([1.0, 2.0])
    x = np.random.default_rng(1).normal(size=(6, 3))
    # In training a constant channel is normalized by its own mean, whatever the moving averages are.
    model.layers[-2].moving_mean.assign([5.0, 5.0, 5.0, 5.0])
    smaller = remove_dead_channels(model).model
    np.testing.assert_allclose(smaller(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_subclassed_model_is_refused():
    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="mine")
            self.dense = L.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    model(np.zeros((1, 2), "float32"))
    with pytest.raises(ValueError, match="'mine' has no graph.*functional or sequential"):
        remove_dead_channels(model)


def test_a_layer_without_configuration_is_named():
    class Scale(L.Layer):
        def __init__(self, by: float) -> None:
            super().__init__(name="scale")
            self.by = by

        def call(self, x):
            return self.by * x

    inputs = keras.Input((2,))
    with pytest.raises(ValueError, match="'scale' of type Scale.*get_config"):
        remove_dead_channels(keras.Model(inputs, Scale(2.0)(inputs)))
