"""Channels that go together, attention heads, and what stays and why: the outputs are those of the zeroed model."""

import keras
import numpy as np
import pytest

from sparse_lib.deployment import ChannelGroup, channel_groups, prune_channels, remove_dead_channels

L = keras.layers


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Gives every weight a value of its own; variances are positive, and gains do not vanish."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        low = weight.name in ("moving_variance", "gamma", "scale")
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) if low else rng.normal(0, 0.5, weight.shape))


def inputs_of(model: keras.Model, n: int = 4) -> object:
    rng = np.random.default_rng(1)
    arrays = [
        rng.integers(0, 11, (n, *x.shape[1:]))
        if x.dtype == "int32"
        else rng.normal(size=(n, *x.shape[1:])).astype("f4")
        for x in model.inputs
    ]
    return arrays if len(arrays) > 1 else arrays[0]


def same_outputs(model: keras.Model, smaller: keras.Model) -> None:
    x = inputs_of(model)
    one, other = (np.asarray(m(x, training=False)) for m in (model, smaller))
    # Outputs that do not depend on the input would agree whatever else was removed.
    assert np.ptp(one, axis=0).max() > 1e-2 * np.abs(one).max()
    np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(one).max())


def pruned(model: keras.Model, fraction: float = 0.5, **options):
    """Zeroes groups of a random model, removes them, and asserts that the outputs are the same."""
    randomize(model)
    prune_channels(model, fraction, **options)
    found = remove_dead_channels(model)
    same_outputs(model, found.model)
    assert found.parameters[1] < found.parameters[0]
    return found


def norm_relu(x):
    return L.ReLU()(L.BatchNormalization()(x))


def convolve(x, filters, name, size=3, strides=1):
    return L.Conv2D(filters, size, strides, padding="same", use_bias=False, name=name)(x)


def resnet():
    """Two blocks after the activation, the second with a projection."""
    image = keras.Input((8, 8, 3))
    x = norm_relu(convolve(image, 6, "stem"))
    y = L.BatchNormalization()(convolve(norm_relu(convolve(x, 6, "inner1")), 6, "outer1"))
    x = L.ReLU()(L.Add()([x, y]))
    y = L.BatchNormalization()(convolve(norm_relu(convolve(x, 8, "inner2", strides=2)), 8, "outer2"))
    x = L.ReLU()(L.Add()([L.BatchNormalization()(convolve(x, 8, "shortcut", 1, 2)), y]))
    return keras.Model(image, L.Dense(5, name="logits")(L.GlobalAveragePooling2D()(x)))


def preactivation():
    image = keras.Input((8, 8, 3))
    x = convolve(image, 6, "stem")
    for block in "ab":
        y = convolve(norm_relu(x), 4, f"inner_{block}")
        x = x + convolve(norm_relu(y), 6, f"outer_{block}")
    return keras.Model(image, L.Dense(5, name="logits")(L.GlobalAveragePooling2D()(norm_relu(x))))


def densely_connected():
    image = keras.Input((8, 8, 3))
    x = convolve(image, 4, "stem")
    for block in "ab":
        x = L.Concatenate()([x, convolve(norm_relu(x), 4, f"grown_{block}")])
    return keras.Model(image, L.Dense(5, name="logits")(L.Flatten()(norm_relu(x))))


def transformer(norm, *, tokens=False, **call):
    """One block before the norm, as in GPT-2 (layer norm) and Llama (root mean square)."""
    inputs = keras.Input((6,), dtype="int32") if tokens else keras.Input((6, 5))
    x = L.Embedding(11, 8, name="embedding")(inputs) if tokens else L.Dense(8, name="embedding")(inputs)
    y = norm()(x)
    x = x + L.MultiHeadAttention(4, 2, name="attention")(y, y, **call)
    y = L.Dense(12, "gelu", name="up")(norm()(x))
    x = x + L.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d", name="down")(y)
    return keras.Model(inputs, L.Dense(5, name="logits")(norm()(x)))


def test_residual_connections():
    model = resnet()
    found = pruned(model)
    kept = {name: after for name, (_, after) in found.widths.items() if "norm" not in name}
    assert kept == {"stem": 3, "inner1": 3, "outer1": 3, "inner2": 4, "outer2": 4, "shortcut": 4}
    assert not found.remaining


def test_preactivation():
    found = pruned(preactivation())
    kept = {name: after for name, (_, after) in found.widths.items() if "norm" not in name}
    assert kept == {"stem": 3, "inner_a": 2, "outer_a": 3, "inner_b": 2, "outer_b": 3}


def test_concatenation():
    found = pruned(densely_connected(), 0.25)
    kept = {name: after for name, (_, after) in found.widths.items() if "norm" not in name}
    assert kept == {"stem": 3, "grown_a": 3, "grown_b": 3}


@pytest.mark.parametrize("tokens", [True, False])
def test_transformer_with_root_mean_squares(tokens):
    found = pruned(transformer(L.RMSNormalization, tokens=tokens, use_causal_mask=True))
    kept = {name: after for name, (_, after) in found.widths.items() if "norm" not in name}
    # The stream, too: a channel of 0 leaves the sum of squares as it is.
    assert kept == {"embedding": 4, "attention": 4, "up": 6, "down": 4}
    assert found.heads == {"attention": (4, 2)}
    assert found.model.get_layer("attention").num_heads == 2


def test_transformer_with_layer_norm_keeps_its_stream():
    model = transformer(L.LayerNormalization)
    found = pruned(model)
    assert found.widths == {"up": (12, 6)}
    assert found.heads == {"attention": (4, 2)}
    model.get_layer("embedding").set_weights([np.zeros((5, 8)), np.zeros(8)])
    remaining = remove_dead_channels(model).remaining
    name = model.layers[2].name
    assert remaining == {"embedding": f"8 of 8: {name!r} (LayerNormalization) needs all its inputs"}
    assert f"embedding: 8 of 8: {name!r}" in remove_dead_channels(model).report()


def test_separable_and_transposed_convolutions():
    image = keras.Input((8, 8, 3))
    x = L.ReLU()(L.Conv2D(6, 3, name="stem")(image))
    x = L.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu", padding="same", name="separable")(x)
    x = L.Conv2DTranspose(4, 3, strides=2, activation="relu", name="up")(x)
    x = L.SeparableConv1D(4, 2, name="line")(L.Reshape((-1, 4))(x))
    model = keras.Model(image, L.Conv1DTranspose(2, 3, padding="same", name="out")(x))
    widths = pruned(model).widths
    assert widths == {"stem": (6, 3), "separable": (5, 3), "up": (4, 2), "line": (4, 2)}
    # A constant other than 0 has another sum at every phase of the stride.
    kernel, *rest = model.get_layer("line").get_weights()
    model.get_layer("line").set_weights([kernel, *rest[:-1], rest[-1] + 1])
    assert remove_dead_channels(model).widths == {name: both for name, both in widths.items() if name != "line"}


def attention(*, use_bias=True, dropout=0.0, value_dim=3, output=4, **call):
    """Attention between two sequences, with layers around it."""
    queries, values = keras.Input((4, 5)), keras.Input((6, 5))
    q, v = L.Dense(6, name="q")(queries), L.Dense(7, name="v")(values)
    layer = L.MultiHeadAttention(
        3, 2, value_dim=value_dim, use_bias=use_bias, dropout=dropout, output_shape=output, name="attention"
    )
    return keras.Model([queries, values], L.Dense(2)(layer(q, v, **call)))


def set_parts(model, change):
    """Changes the weights of the attention layer, by their path."""
    for weight in model.get_layer("attention").weights:
        value = weight.numpy()
        change("/".join(weight.path.split("/")[-2:]), value)
        weight.assign(value)


def attend(change, **options):
    model = attention(**options)
    randomize(model)
    set_parts(model, change)
    found = remove_dead_channels(model)
    same_outputs(model, found.model)
    return found


def test_a_head_that_nothing_reads():
    def change(name, value):
        if name == "attention_output/kernel":
            value[1] = 0

    assert attend(change).heads == {"attention": (3, 2)}
    assert attend(change, use_bias=False, dropout=0.5).heads == {"attention": (3, 2)}
    assert attend(change, use_causal_mask=True).heads == {"attention": (3, 2)}


def test_a_head_of_constant_values_is_folded_into_the_bias():
    def change(name, value):
        if name == "value/kernel":
            value[:, 2] = 0

    assert attend(change).heads == {"attention": (3, 2)}
    # Dropout scales the rows of the softmax, unless the values are 0.
    assert attend(change, dropout=0.5).heads == {}
    assert attend(change, use_bias=False, dropout=0.5).heads == {"attention": (3, 2)}


def test_units_that_are_constant_or_not_read():
    def change(name, value):
        if name == "value/kernel":
            value[:, 0, 0] = 0
        if name == "attention_output/kernel":
            value[0, 1:] = 0

    assert attend(change).heads == {"attention": (3, 2)}


def test_channels_through_attention():
    def change(name, value):
        if name in ("query/kernel", "key/kernel"):
            value[1] = 0
        if name == "value/kernel":
            value[[1, 2]] = 0
        if name == "attention_output/kernel":
            value[..., 3] = 0

    found = attend(change)
    # Channel 2 of the values is still a key.
    assert found.widths == {"q": (6, 5), "v": (7, 6), "attention": (4, 3)}
    assert not found.heads


def test_constant_channels_into_attention():
    model = attention()
    randomize(model)
    for name in "qv":
        kernel, bias = model.get_layer(name).get_weights()
        kernel[:, 2] = 0
        model.get_layer(name).set_weights([kernel, bias])
    found = remove_dead_channels(model)
    same_outputs(model, found.model)
    assert found.widths == {"q": (6, 5), "v": (7, 6)}


def test_attention_without_bias_cannot_hold_a_constant():
    model = attention(use_bias=False)
    randomize(model)
    kernel, bias = model.get_layer("v").get_weights()
    kernel[:, [2, 3]] = 0
    bias[3] = 0
    model.get_layer("v").set_weights([kernel, bias])
    found = remove_dead_channels(model)
    same_outputs(model, found.model)
    assert found.widths == {"v": (7, 6)}
    reason = "1 of 7: no bias of 'attention' (MultiHeadAttention) can replace its constant"
    assert found.remaining == {"v": reason}


def test_a_mask_leaves_heads_removable_and_channels_where_they_are():
    inputs, mask = keras.Input((4, 5)), keras.Input((4, 4), dtype="bool")
    x = L.Dense(6, name="x")(inputs)
    layer = L.MultiHeadAttention(3, 2, name="attention")
    model = keras.Model([inputs, mask], L.Dense(2)(layer(x, x, attention_mask=mask)))
    randomize(model)
    layer.set_weights(
        [w * (np.arange(3)[:, None, None] != 1) if w.shape == (3, 2, 6) else w for w in layer.get_weights()]
    )
    x = model.get_layer("x")
    x.set_weights([w * (np.arange(6) != 1) for w in x.get_weights()])
    found = remove_dead_channels(model)
    assert found.heads == {"attention": (3, 2)}
    assert found.remaining == {"x": "1 of 6: 'attention' (MultiHeadAttention) needs all its inputs"}
    data = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("f4"), np.tril(np.ones((3, 4, 4), bool))
    np.testing.assert_allclose(found.model(data), model(data), atol=1e-5)


def test_attention_scores_keep_the_heads():
    inputs = keras.Input((4, 5))
    layer = L.MultiHeadAttention(3, 2, name="attention")
    y, scores = layer(inputs, inputs, return_attention_scores=True)
    model = keras.Model(inputs, [y, scores])
    layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    found = remove_dead_channels(model)
    assert not found.heads
    assert found.model(np.zeros((1, 4, 5)))[1].shape == (1, 3, 4, 4)


def test_what_a_coupled_channel_is_kept_by():
    inputs = keras.Input((5,))
    a, b = L.Dense(4, name="a")(inputs), L.Dense(4, name="b")(inputs)
    model = keras.Model(inputs, L.Dense(2, name="logits")(L.Add()([a, b])))
    randomize(model)
    a = model.get_layer("a")
    a.set_weights([w * (np.arange(4) != 1) for w in a.get_weights()])
    found = remove_dead_channels(model)
    assert not found.widths
    assert found.remaining == {"a": "1 of 4: coupled with others: 'logits' (Dense) reads it"}


def test_a_constant_beside_zero_padding_is_named():
    layers = [L.Conv2D(4, 3, name="first"), L.Conv2D(2, 3, padding="same", name="second")]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    randomize(model)
    kernel, bias = layers[0].get_weights()
    kernel[..., 1] = 0
    layers[0].set_weights([kernel, bias])
    reason = "1 of 4: no bias of 'second' (Conv2D) can replace its constant"
    assert remove_dead_channels(model).remaining == {"first": reason}


# --- choosing ---


def test_groups_are_those_of_the_graph():
    model = resnet()
    norms = [layer.name for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    families = [set(group.members) for group in channel_groups(model)]
    assert {"stem", "outer1", norms[0], norms[2]} in families
    assert {"inner1", norms[1]} in families
    assert {"outer2", "shortcut", norms[4], norms[5]} in families or {"outer2", "shortcut", *norms[3:]} in families
    assert len(families) == 6 + 6 + 8 + 8
    assert not any("logits" in family for family in families)


def test_the_smallest_go():
    layers = [L.Dense(4, name="hidden"), L.Dense(2, name="logits")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    layers[0].set_weights([np.ones((3, 4)) * [3, 1, 2, 4], np.zeros(4)])
    zeroed = prune_channels(model, 0.5)
    assert [group.members for group in zeroed] == [{"hidden": (1,)}, {"hidden": (2,)}]
    assert [group.size for group in zeroed] == pytest.approx([3**0.5, 2 * 3**0.5])
    np.testing.assert_array_equal(layers[0].kernel, np.ones((3, 4)) * [3, 0, 0, 4])


def test_a_score_of_ones_own_and_exclusions():
    def last_first(group: ChannelGroup) -> float:
        return -min(number for numbers in group.members.values() for number in numbers)

    model = transformer(L.LayerNormalization)
    randomize(model)
    zeroed = prune_channels(model, 0.25, exclude="att*", score=last_first)
    assert [group.members for group in zeroed] == [{"up": (11,)}, {"up": (10,)}, {"up": (9,)}]
    with pytest.raises(ValueError, match="No channel of model .* can be removed"):
        prune_channels(model, 0.25, exclude=["att*", "up"])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_bad_fractions(fraction):
    with pytest.raises(ValueError, match=r"at least 0 and below 1"):
        prune_channels(resnet(), fraction)
