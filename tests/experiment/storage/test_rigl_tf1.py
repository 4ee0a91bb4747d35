"""Checkpoints of the published TF1 code: names, masks, statistics, and the logits that they give."""

import json
import math
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import api
from sparse_lib.experiment.data import Dataset, DataSettings, Split, load_dataset
from sparse_lib.experiment.data.feeding.pixels import pixels
from sparse_lib.experiment.data.feeding.preprocessing import preprocessing
from sparse_lib.experiment.networks import VGG16, MobileNet, ResNet, Style, WideResNet
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import rigl_tf1, sources
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import build_run
from tests.experiment import tiny
from tests.experiment.data.prepared import registered
from tests.golden_values import GOLDEN

ROOT = pathlib.Path(__file__).parents[3]
FIXTURES = GOLDEN / "tf1"
IMAGENET, CIFAR = (224, 224, 3), (32, 32, 3)
EPSILON = 1.001e-5


def wrn_16_1() -> keras.Model:
    return WideResNet(depth=16, width=1).build(CIFAR, 10, Style())


def mobilenet_quarter() -> keras.Model:
    return MobileNet(width=0.25).build(IMAGENET, 1000, Style())


# The real graphs: checkpoints and logits that TensorFlow 1.15 wrote


@pytest.mark.parametrize(
    ("fixture", "build", "dataset"),
    [("wrn_16_1", wrn_16_1, "cifar10"), ("mobilenet_v1_w0.25", mobilenet_quarter, "imagenet2012")],
)
def test_logits_are_those_of_the_published_graph(fixture, build, dataset):
    stored = np.load(FIXTURES / fixture / "io.npz")
    info = json.loads((FIXTURES / fixture / "info.json").read_text())
    model = build()
    sources.load(FIXTURES / fixture, model)
    images = pixels(stored["images_uint8"], preprocessing("rigl", dataset))[:]
    logits = model(images, training=False).numpy()
    assert np.abs(logits - stored["logits"]).max() < 1e-4 * info["logits_std"]
    kernels = api.sparse_kernels(model)
    masks = sources.masks(FIXTURES / fixture, model, kernels)
    assert sum(not mask.all() for mask in masks.values()) == len(info["masks"])
    for name, kernel in kernels.items():
        assert masks[name].mean() == pytest.approx(1 if masks[name].all() else 1 - info["sparsity"], abs=0.01)
        assert not kernel.numpy()[~masks[name]].any()


def test_stored_weights_are_not_zero_off_the_mask():
    # So that forgetting to apply the masks would show in the logits.
    reader = tf.train.load_checkpoint(str(FIXTURES / "wrn_16_1" / "model.ckpt-97656"))
    weights, mask = (reader.get_tensor(f"resnet_model/conv_2_0_1/{kind}") for kind in ("weights", "mask"))
    assert (weights[mask == 0] != 0).all()


# All published names, at full size


class Listed:
    """A checkpoint of which only names and shapes are known."""

    def __init__(self, variables):
        self._shapes = dict(variables)

    def get_variable_to_shape_map(self):
        return self._shapes

    def get_tensor(self, name):
        return np.ones(self._shapes[name], np.float32)


FULL = {
    "resnet50": lambda: ResNet().build(IMAGENET, 1000, Style()),
    "mobilenet_v1": lambda: MobileNet().build(IMAGENET, 1000, Style()),
    "mobilenet_v2": lambda: MobileNet(version=2).build(IMAGENET, 1000, Style()),
    "vgg16": lambda: VGG16(classifier="pooled").build(IMAGENET, 1000, Style()),
    "wrn_22_2": lambda: WideResNet().build(CIFAR, 10, Style()),
}
MASKED = {
    "resnet50": 54,
    "resnet50_rigl_uniform": 53,
    "resnet50_baseline": 53,
    "mobilenet_v1": 14,
    "mobilenet_v2": 35,
    "vgg16": 14,
    "wrn_22_2": 22,
    "wrn_22_2_rigl_prune_first_layer": 23,
    "wrn_22_2_baseline": 0,
}


@pytest.mark.parametrize("network", list(FULL))
def test_every_published_variable_has_its_place(network, golden, monkeypatch):
    model = FULL[network]()
    variables = golden("tf1/variables")
    variants = [name for name in variables if name.startswith(network)]
    for variant in variants:
        monkeypatch.setattr(tf.train, "load_checkpoint", lambda _, of=variables[variant]: Listed(of))
        masks = rigl_tf1.PublishedCheckpoint("listed").masks(model, list(api.sparse_kernels(model)))
        # A mask that was stored is all ones here, and one that was not as well: count the names.
        assert sum(name.endswith("/mask") for name, _ in variables[variant]) == MASKED[variant]
        assert {name: mask.shape for name, mask in masks.items()} == {
            name: tuple(kernel.shape) for name, kernel in api.sparse_kernels(model).items()
        }
    assert {name for name in MASKED if name.startswith(network)} == set(variants)


# References: the published graphs in plain operations, which make and number their variables as they go


class Graph:
    """Convolutions, normalisations and dense layers with random variables under published names."""

    def __init__(self, scope, *, masked=True):
        self.scope, self.masked, self.variables = scope, masked, {}
        self._norms, self._rng = 0, np.random.default_rng(0)

    def _variable(self, name, value):
        self.variables[f"{self.scope}/{name}"] = np.asarray(value, np.float32)
        return self.variables[f"{self.scope}/{name}"]

    def kernel(self, name, shape, kind="weights", *, masked=True):
        scale = math.sqrt(2 / math.prod(shape[:-1]))
        if not (masked and self.masked):
            # A layer of another kind than a masked one doubles its scope.
            place = name if kind != "weights" else f"{name}/{name}"
            return self._variable(f"{place}/{kind}", self._rng.normal(0, scale, shape))
        weights = self._variable(f"{name}/{kind}", self._rng.normal(0, scale, shape))
        self._variable(f"{name}/threshold", 0)
        return weights * self._variable(f"{name}/mask", self._rng.random(shape) < 0.6)

    def conv(self, x, name, size, channels, stride=1, **options):
        kernel = self.kernel(name, (size, size, x.shape[-1], channels), **options)
        if stride == 1:
            return tf.nn.conv2d(x, kernel, 1, "SAME")
        pad = (size - 1) // 2
        return tf.nn.conv2d(tf.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), kernel, stride, "VALID")

    def depthwise(self, x, name, stride):
        kernel = self._variable(f"{name}/depthwise_weights", self._rng.normal(0, 0.4, (3, 3, x.shape[-1], 1)))
        if stride == 1:
            return tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "SAME")
        padded = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return tf.nn.depthwise_conv2d(padded, kernel, (1, stride, stride, 1), "VALID")

    def norm(self, x, relu=True):
        name = f"batch_normalization_{self._norms}" if self._norms else "batch_normalization"
        self._norms += 1
        size, rng = x.shape[-1], self._rng
        gamma, variance = (
            self._variable(f"{name}/{k}", rng.uniform(0.5, 1.5, size)) for k in ("gamma", "moving_variance")
        )
        beta, mean = (self._variable(f"{name}/{k}", rng.normal(0, 0.3, size)) for k in ("beta", "moving_mean"))
        y = (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta
        return tf.nn.relu(y) if relu else y

    def dense(self, x, name, classes):
        kernel = self.kernel(name, (x.shape[-1], classes))
        place = name if self.masked else f"{name}/{name}"
        return x @ kernel + self._variable(f"{place}/biases", self._rng.normal(0, 0.1, classes))


WIDTH = 1 / 16


def resnet50(x, graph):
    x = graph.norm(graph.conv(x, "initial_conv", 7, 4, 2))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for group, (blocks, channels) in enumerate([(3, 4), (4, 8), (6, 16), (3, 32)], start=1):
        for block in range(blocks):
            place = f"block_group{group}_{block}_1" if block else f"block_group_projection_block_group{group}"
            stride = 2 if group > 1 and not block else 1
            shortcut = x
            if not block:
                shortcut = graph.norm(
                    graph.conv(x, f"bottleneck_projection_{place}", 1, 4 * channels, stride), relu=False
                )
            y = graph.norm(graph.conv(x, f"bottleneck_1_{place}", 1, channels))
            y = graph.norm(graph.conv(y, f"bottleneck_2_{place}", 3, channels, stride))
            y = graph.norm(graph.conv(y, f"bottleneck_3_{place}", 1, 4 * channels), relu=False)
            x = tf.nn.relu(y + shortcut)
    return graph.dense(tf.reduce_mean(x, (1, 2)), "final_dense", 10)


def mobilenet_v2(x, graph):
    x = graph.norm(graph.conv(x, "initial_conv", 3, 8, 2, kind="kernel", masked=False))
    plan = [(1, 16, 1), (2, 24, 2), (3, 32, 2), (4, 64, 2), (3, 96, 1), (3, 160, 2), (1, 320, 1)]
    index = 0
    for repeats, channels, first_stride in plan:
        for repeat in range(repeats):
            stride, y = first_stride if repeat == 0 else 1, x
            out = max(8, round(channels * 0.25 / 8) * 8) if index else 4
            if index:
                y = graph.norm(graph.conv(y, f"expand_1x1_{index}", 1, 6 * x.shape[-1]))
            y = graph.norm(graph.depthwise(y, f"depthwise_nxn_{index}", stride))
            y = graph.norm(graph.conv(y, f"contraction_1x1_{index}", 1, out), relu=False)
            x = x + y if stride == 1 and x.shape[-1] == out else y
            index += 1
    x = graph.norm(graph.conv(x, "final_1x1_conv", 1, 1280))
    return graph.dense(tf.reduce_mean(x, (1, 2)), "final_dense", 10)


def vgg16(x, graph):
    for group, (channels, repeats) in enumerate([(4, 2), (8, 2), (16, 3), (32, 3), (32, 3)], start=1):
        for repeat in range(1, repeats + 1):
            x = tf.nn.relu(graph.conv(x, f"conv{group}/conv{group}_{repeat}", 3, channels))
        x = tf.nn.max_pool2d(x, 2, 2, "VALID") if group < 5 else x
    return graph.conv(tf.reduce_mean(x, (1, 2), keepdims=True), "fc8", 1, 10)[:, 0, 0]


def wide_resnet(x, graph, *, stem_masked=False):
    x = graph.conv(x, "conv_1", 3, 16, masked=stem_masked)
    for group, channels in ((2, 16), (3, 32), (4, 64)):
        for block in range(2):
            stride = 2 if group > 2 and not block else 1
            y, shortcut = graph.norm(x), x
            if x.shape[-1] != channels:
                kernel = graph.kernel(f"skip_conv_{group}", (1, 1, x.shape[-1], channels))
                shortcut = tf.nn.conv2d(y, kernel, stride, "VALID")
            kernel = graph.kernel(f"conv_{group}_{block}_1", (3, 3, x.shape[-1], channels))
            y = graph.norm(tf.nn.conv2d(y, kernel, stride, "SAME"))
            x = graph.conv(y, f"conv_{group}_{block}_2", 3, channels) + shortcut
    return graph.dense(tf.reduce_mean(graph.norm(x), (1, 2)), "logits", 10)


def write(path, variables):
    """A checkpoint as tf.train.Saver of TensorFlow 1 writes it, with the file that names the last one."""
    names = list(variables)
    values = [tf.constant(variables[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    (path.parent / "checkpoint").write_text(f'model_checkpoint_path: "{path.name}"\n')
    return path


def images(size, count=3):
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype(np.float32)


def resnet50_narrow() -> keras.Model:
    return ResNet(width=WIDTH, stem="imagenet").build((64, 64, 3), 10, Style())


REFERENCES = [
    (resnet50, {}, "resnet_model", 64, resnet50_narrow),
    (mobilenet_v2, {}, "resnet_model", 32, lambda: MobileNet(version=2, width=0.25).build(CIFAR, 10, Style())),
    (vgg16, {}, "vgg_16", 32, lambda: VGG16(width=WIDTH, classifier="pooled").build(CIFAR, 10, Style())),
    (wide_resnet, {"stem_masked": True}, "resnet_model", 32, wrn_16_1),
    (wide_resnet, {"stem_masked": False}, "resnet_model", 32, wrn_16_1),
]


@pytest.mark.parametrize(("reference", "options", "scope", "size", "build"), REFERENCES)
def test_logits_are_those_of_a_reference(reference, options, scope, size, build, tmp_path):
    graph, batch = Graph(scope), images(size)
    expected = reference(tf.constant(batch), graph, **options).numpy()
    path = write(tmp_path / "model.ckpt-7", graph.variables)
    model = build()
    sources.load(path, model)
    logits = model(batch, training=False).numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())
    masks = sources.masks(path, model, api.sparse_kernels(model))
    stored = [value for name, value in graph.variables.items() if name.endswith("/mask")]
    assert sum(int(mask.sum()) for mask in masks.values() if not mask.all()) == sum(int(m.sum()) for m in stored)
    assert sum(not mask.all() for mask in masks.values()) == len(stored)


def test_a_checkpoint_without_masks_is_read_under_its_doubled_scopes(tmp_path):
    graph, batch = Graph("resnet_model", masked=False), images(32)
    expected = wide_resnet(tf.constant(batch), graph).numpy()
    assert "resnet_model/conv_2_0_1/conv_2_0_1/weights" in graph.variables
    assert "resnet_model/logits/logits/biases" in graph.variables
    path = write(tmp_path / "model.ckpt-7", graph.variables)
    model = wrn_16_1()
    sources.load(path, model)
    np.testing.assert_allclose(model(batch, training=False), expected, atol=2e-5 * np.abs(expected).max())
    assert all(mask.all() for mask in sources.masks(path, model, api.sparse_kernels(model)).values())


# What is left out, and what is refused


@pytest.fixture(scope="module")
def variables():
    graph = Graph("resnet_model")
    wide_resnet(tf.constant(images(32, 1)), graph)
    return graph.variables


def values(model):
    return [v.numpy() for v in model.variables]


def test_state_of_training_is_ignored(variables, tmp_path):
    training = {
        f"{name}/Momentum": value + 1 for name, value in variables.items() if name.endswith(("weights", "gamma"))
    }
    training |= {
        "global_step": np.int64(97656),
        "last_mask_update_step": np.int64(75000),
        "model_pruning/last_mask_update_step": np.int32(3),
        "is_snipped": np.array(True),
        "train/gradients_1/resnet_model/conv_1_grad/tuple/control_dependency_1/ExponentialMovingAverage": np.ones(3),
    }
    plain, rich = wrn_16_1(), wrn_16_1()
    for model, stored in ((plain, variables), (rich, variables | training)):
        folder = tmp_path / str(len(stored))
        folder.mkdir()
        sources.load(write(folder / "model.ckpt-1", stored), model)
    for one, other in zip(values(plain), values(rich), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_may_lie_in_several_files(variables, tmp_path):
    names = sorted(variables)
    parts = [str(tmp_path / "part1"), str(tmp_path / "part2")]
    for part, chosen in zip(parts, (names[::2], names[1::2]), strict=True):
        tensors = [tf.constant(variables[name]) for name in chosen]
        tf.raw_ops.SaveV2(prefix=part, tensor_names=chosen, shape_and_slices=[""] * len(chosen), tensors=tensors)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "model.ckpt-1"))
    assert len(list(tmp_path.glob("model.ckpt-1.data-*-of-00002"))) == 2
    whole, merged = wrn_16_1(), wrn_16_1()
    sources.load(tmp_path / "model.ckpt-1", merged)
    sources.load(write(tmp_path / "model.ckpt-2", variables), whole)
    for one, other in zip(values(whole), values(merged), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_published_checkpoint_is_told_from_one_of_a_run(variables, tmp_path):
    path = write(tmp_path / "model.ckpt-9", variables)
    for given in (path, f"{path}.index", f"{path}.data-00000-of-00001", tmp_path):
        assert rigl_tf1.prefix(given) == str(path)
    tiny.train(tiny.experiment(training={"total_steps": 2}), tmp_path / "run")
    for given in (tmp_path / "run", tmp_path / "run" / "ckpt-2", tmp_path / "nothing", "nothing/ckpt-3"):
        assert rigl_tf1.prefix(given) is None


REFUSED = {
    "missing": ({"resnet_model/conv_2_0_1/weights": None}, "group1_block0_conv1/kernel is missing"),
    "no statistics": ({"resnet_model/batch_normalization_3/moving_mean": None}, "pre2_norm/moving_mean is missing"),
    "left over": (
        {"resnet_model/conv_5_0_1/weights": np.ones((3, 3, 2, 2), np.float32)},
        "resnet_model/conv_5_0_1/weights is not in the network",
    ),
    "deeper": (
        {"resnet_model/batch_normalization_13/gamma": np.ones(64, np.float32)},
        "batch_normalization_13/gamma is not in the network",
    ),
    "other classes": (
        {"resnet_model/logits/biases": np.ones(100, np.float32)},
        r"resnet_model/logits/biases has shape \(100,\), not \(10,\)",
    ),
    "of nothing known": (
        {"my_model/conv/weights": np.ones((3, 3, 2, 2), np.float32), "resnet_model": None},
        r"of none of the published networks \(resnet_model, vgg_16\)",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_map_is_refused_in_one_line(variables, change, message, tmp_path):
    changed = variables | change
    if "resnet_model" in change:
        changed = change
    changed = {name: value for name, value in changed.items() if value is not None}
    model = wrn_16_1()
    before = values(model)
    with pytest.raises(RunError, match=message) as raised:
        sources.load(write(tmp_path / "model.ckpt-1", changed), model)
    assert "\n" not in str(raised.value)
    for one, other in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_network_is_refused_and_the_first_differences_are_listed(variables, tmp_path):
    path = write(tmp_path / "model.ckpt-1", variables)
    with pytest.raises(RunError, match=r"does not fit resnet: .*; .* and \d+ more") as raised:
        sources.load(path, ResNet(depth=20).build(CIFAR, 10, Style()))
    assert len(str(raised.value)) < 600


def test_masks_of_kernels_that_a_run_leaves_dense_are_not_dropped(variables, tmp_path):
    path = write(tmp_path / "model.ckpt-1", variables)
    model = wrn_16_1()
    kernels = api.sparse_kernels(model)
    del kernels["logits/kernel"]
    with pytest.raises(RunError, match="logits/kernel would lose their masks"):
        sources.masks(path, model, kernels)


# In a run


def pictures() -> Dataset:
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), (np.arange(40) % 10).astype(np.int32)
    parts = {"train": slice(0, 24), "validation": slice(24, 32), "test": slice(32, 40)}
    kind = preprocessing("rigl", "cifar10")
    return Dataset(
        "pictures", **{k: Split(pixels(values[p], kind), labels[p]) for k, p in parts.items()}, num_classes=10
    )


def described(**settings):
    return tiny.experiment("wide_resnet", sizes=WideResNet(depth=16, width=1.0), dataset=pictures(), **settings)


def test_evaluating_a_published_checkpoint():
    of = described()
    found = run.evaluate(of, FIXTURES / "wrn_16_1")
    model = wrn_16_1()
    sources.load(FIXTURES / "wrn_16_1", model)
    logits = model(of.dataset.test.images[:], training=False)
    loss = keras.losses.sparse_categorical_crossentropy(of.dataset.test.labels, logits, from_logits=True)
    assert found["test_loss"] == pytest.approx(float(np.mean(loss)), rel=1e-5)
    info = json.loads((FIXTURES / "wrn_16_1" / "info.json").read_text())
    assert len(info["masks"]) == 15
    masks = sources.masks(FIXTURES / "wrn_16_1", model, api.sparse_kernels(model)).values()
    assert found["sparsity"] == pytest.approx(1 - sum(m.sum() for m in masks) / sum(m.size for m in masks))


def test_a_run_may_start_from_a_published_checkpoint():
    path = str(FIXTURES / "wrn_16_1")
    built = build_run(
        described(network={"network_name": "wide_resnet", "weight_init_path": path, "mask_init_path": path}), fresh=True
    )
    expected = wrn_16_1()
    sources.load(path, expected)
    for one, other in zip(built.model.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert built.optimizer.masks.sparsity() == pytest.approx(run.evaluate(described(), path)["sparsity"])


@pytest.mark.slow
def test_the_command_line_evaluates_a_published_checkpoint(tmp_path):
    of = pictures()
    arrays = {f"x_{k}": getattr(of, name).images.values for k, name in (("train", "train"), ("test", "test"))}
    arrays |= {"y_train": of.train.labels, "y_test": of.test.labels}
    np.savez(tmp_path / "pictures.npz", **arrays)
    bindings = [
        f"data.name='{tmp_path / 'pictures.npz'}'",
        "data.validation_size=0",
        "data.preprocessing='per_image'",
        "network.network_name='wide_resnet'",
        "wide_resnet.depth=16",
        "wide_resnet.width=1.0",
    ]

    def evaluate(checkpoint, bindings):
        flags = [f"--gin_bindings={binding}" for binding in bindings]
        command = [sys.executable, "train.py", "--mode=eval", f"--logdir={tmp_path / 'no_run'}", f"--ckpt={checkpoint}"]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        return subprocess.run(
            [*command, *flags], cwd=ROOT, env=environment, check=False, capture_output=True, text=True
        )

    done = evaluate(FIXTURES / "wrn_16_1" / "model.ckpt-97656", bindings)
    assert done.returncode == 0, done.stderr
    expected = run.evaluate(described(), FIXTURES / "wrn_16_1")
    assert json.loads(done.stdout)["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-5)
    wrong = evaluate(FIXTURES / "wrn_16_1", [*bindings[:-1], "wide_resnet.width=2.0"])
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: Checkpoint")
    assert wrong.stderr.count("\n") == 1
    assert not (tmp_path / "no_run").exists()


@pytest.mark.slow
def test_a_published_imagenet_checkpoint_is_evaluated_on_images_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    photographs = [rng.integers(0, 256, (60, 50 + i, 3), dtype=np.uint8) for i in range(12)]
    registered(
        tmp_path,
        "imagenet2012",
        {"train": photographs, "validation": photographs[:5]},
        shape=(None, None, 3),
        classes=1000,
        encoding="jpeg",
    )
    dataset = load_dataset(DataSettings(name="imagenet2012", data_dir=str(tmp_path), cache_dir=str(tmp_path)))
    of = tiny.experiment("mobilenet", sizes=MobileNet(width=0.25), dataset=dataset)
    found = run.evaluate(of, FIXTURES / "mobilenet_v1_w0.25")
    model = mobilenet_quarter()
    sources.load(FIXTURES / "mobilenet_v1_w0.25", model)
    logits = model(dataset.test.images[:], training=False)
    loss = keras.losses.sparse_categorical_crossentropy(dataset.test.labels, logits, from_logits=True)
    assert found["test_loss"] == pytest.approx(float(np.mean(loss)), rel=1e-5)
    assert {"train_loss", "validation_loss", "sparsity"} <= set(found)


def test_the_width_of_a_published_network_may_be_another():
    of = MobileNet(width=0.25)
    model = of.build(IMAGENET, 1000, Style())
    sources.load(FIXTURES / "mobilenet_v1_w0.25", model)
    with pytest.raises(RunError, match="does not fit mobilenet_v1"):
        sources.load(FIXTURES / "mobilenet_v1_w0.25", MobileNet(width=0.5).build(IMAGENET, 1000, Style()))
