"""The gin files of configs/networks with those of configs/methods: they hold the papers' values, and train."""

import math
import pathlib
import re
import shutil

import gin
import keras
import numpy as np
import pytest

from sparse_lib import updaters
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from tests.experiment import tiny

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
# LeNet5 and the MLP are trained by a protocol, see test_configs.
SMALL = ("lenet5", "mlp")
NETWORKS = sorted(path.stem for path in (CONFIGS / "networks").glob("*.gin") if path.stem not in SMALL)
METHODS = sorted(path.stem for path in (CONFIGS / "methods").glob("*.gin"))
FROM_PRUNING = ("lottery", "prune_restart", "rigl_from_prune", "scratch", "scratch_plus", "scratch_shuffled")
FROM_PRUNING += ("set_from_prune", "imp", "imp_reinit")
ONE_SHOT = ("snip", "grasp", "synflow", "wanda", "oneshot_magnitude", "oneshot_random")
FROM_DENSE = ("dense", "small_dense", "prune", "prune_global", "acdc", *ONE_SHOT)
FROM_RANDOM = tuple(method for method in METHODS if method not in (*FROM_PRUNING, *FROM_DENSE))
PUBLISHED = ("dense", "lottery", "prune", "rigl", "scratch", "set", "small_dense", "snfs", "snip", "static")
UPDATERS = {
    "acdc": updaters.ACDC,
    "cht": updaters.CHT,
    "chts": updaters.CHTs,
    "dnw": updaters.DNW,
    "granet": updaters.GraNet,
    "mest": updaters.MEST,
    "nm": updaters.RigL,
    "prune": updaters.Prune,
    "prune_global": updaters.Prune,
    "rigl": updaters.RigL,
    "rigl_from_prune": updaters.RigL,
    "rigl_inverted": updaters.RigLInverted,
    "set": updaters.SET,
    "set_from_prune": updaters.SET,
    "snfs": updaters.SNFS,
    "snfs_redistributed": updaters.SNFS,
    "srigl": updaters.SRigL,
    "static_reinit": updaters.StaticReinit,
    "topkast": updaters.TopKAST,
}


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def read_with_includes(path):
    text = path.read_text()
    return text + "".join(read_with_includes(path.parent / name) for name in re.findall(r"include '(.*)'", text))


def parse(network, method, *bindings):
    gin.clear_config()
    paths = [str(CONFIGS / folder / f"{name}.gin") for folder, name in (("networks", network), ("methods", method))]
    text = read_with_includes(pathlib.Path(paths[1]))
    pruned = {"PRUNED_RUN": "'none'", "PRUNED_START": "'none/ckpt-0'"}
    gin_files.parse(paths, [*(f"{name} = {value}" for name, value in pruned.items() if f"%{name}" in text), *bindings])


def settings(network, method="dense", *bindings):
    """Everything that an experiment is built from but the data."""
    parse(network, method, *bindings)
    named = gin_names.network()
    kinds = ("training", "masks", "oneshot", "pruning", "mask_updater", "optimizer", "small_dense")
    made = {kind: getattr(gin_names, kind)() for kind in kinds}
    return {**made, "network": named, "sizes": gin_names.NETWORKS[named.network_name]()}


def test_every_network_and_method_has_its_file():
    assert {*UPDATERS, *FROM_PRUNING, *FROM_DENSE, "static"} == set(METHODS)
    named = {settings(network)["network"].network_name for network in NETWORKS}
    large = {"wide_resnet", "resnet", "vgg11", "vgg16", "vgg19", "mobilenet", "vit", "gru"}
    assert named == large | {"mlp", "conv_n", "convnet1d", "bidirectional_gru"}


@pytest.mark.parametrize("network", NETWORKS)
def test_methods_differ_in_what_they_are_about_alone(network):
    dense = settings(network)
    # One network with all; the others with those of arXiv 1911.11134, which use every macro.
    for method in METHODS if network == "wrn_22_2" else PUBLISHED:
        made = settings(network, method)
        assert made["optimizer"] == dense["optimizer"] and made["sizes"] == dense["sizes"]
        assert made["network"].weight_decay == dense["network"].weight_decay
        assert made["training"].total_steps == dense["training"].total_steps
        rate = made["optimizer"].rate(made["training"].total_steps)
        updater = made["mask_updater"].build(
            made["pruning"].build(),
            rate,
            peak_rate=made["optimizer"].learning_rate,
            total_steps=made["training"].total_steps,
            dense_start=method in FROM_DENSE,
        )
        assert type(updater) is UPDATERS.get(method, updaters.Static)
        assert bool(made["masks"].sparsity) == (method in FROM_RANDOM)
        assert bool(made["network"].mask_init_path) == (method in FROM_PRUNING)
        assert bool(made["training"].oneshot_prune_fraction) == (method in ONE_SHOT)
        assert bool(made["small_dense"].sparsity) == (method == "small_dense")


SHAPES = {
    **dict.fromkeys(["wrn_22_2", "resnet20", "conv2", "conv4", "conv6"], ((32, 32, 3), 10)),
    **dict.fromkeys(["mnist1d_mlp", "mnist1d_conv", "mnist1d_gru"], ((40, 1), 10)),
    "lenet300": ((28, 28, 1), 10),
    "gru": ((128, 1, 1), 256),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_that_are_dense_are_there_and_the_others_have_the_sparsity(network):
    made = settings(network, "rigl")
    image, classes = SHAPES.get(network, ((224, 224, 3), 1000))
    with keras.StatelessScope():
        model = made["network"].build(image, classes, 0, made["sizes"])
        kernels = made["network"].kernels(model)
    counts = made["masks"].counts(kernels)
    dense = {f"{layer}/kernel" for layer in made["masks"].custom or {}}
    assert dense <= set(counts)
    weights = {name: math.prod(kernel.shape) for name, kernel in kernels.items()}
    assert all(counts[name] == weights[name] for name in dense)
    active, total = (sum(c[name] for name in c if name not in dense) for c in (counts, weights))
    assert 1 - active / total == pytest.approx(made["masks"].sparsity, abs=1e-3)


def test_headers_tell_what_a_file_is_and_those_of_networks_the_command():
    for path in sorted(CONFIGS.rglob("*.gin")):
        assert path.read_text().startswith("# "), path
        if path.stem in NETWORKS:
            assert f"--gin_config=configs/networks/{path.name}" in path.read_text()


def test_protocols_that_are_read_last():
    files = ["networks/resnet50", "methods/rigl", "protocols/sgdr"]
    gin_files.parse([str(CONFIGS / f"{file}.gin") for file in files], [])
    rate = gin_names.optimizer().rate(32_000)
    # Cycles of 1564 and 2346 steps; the peak halves.
    for step, value in {0: 1.6, 782: 0.8, 1564: 0.8, 1564 + 1173: 0.4, 1564 + 2346: 0.4}.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-4)
    for mode in ("rigl", "snip"):
        gin.clear_config()
        gin_files.parse([str(CONFIGS / f"{mode}.gin"), str(CONFIGS / "protocols" / "rigl_tf2.gin")], [])
        updater, oneshot, training = gin_names.mask_updater(), gin_names.oneshot(), gin_names.training()
        assert (updater.replaces_step, updater.growth_gradient) == (False, "held_out")
        assert (oneshot.scope, oneshot.count_examples(1000)) == ("layer", 5000)
        assert (training.save_update_pairs, training.keep_checkpoints) == (True, None)
    gin.clear_config()
    gin_files.parse([str(CONFIGS / "rigl.gin"), str(CONFIGS / "protocols" / "supar.gin")], ["BASE_DENSITY = 0.1"])
    network, optimizer = gin_names.network(), gin_names.optimizer()
    assert (network.weight_init_method, optimizer.supar_base_density) == ("layer_scaled", 0.1)
    gin.clear_config()
    gin_files.parse([str(CONFIGS / "static.gin"), str(CONFIGS / "protocols" / "sign_in.gin")], ["RESET_FREQ = 7"])
    assert gin_names.optimizer().build(0.1).get_config()["reset_every"] == 7


def test_published_settings_of_methods():
    snip, snfs, static = (settings("resnet50", method) for method in ("snip", "snfs", "static"))
    assert (snip["oneshot"].scope, snip["oneshot"].examples) == ("layer", 4096)
    assert (snfs["mask_updater"].redistribute, snfs["mask_updater"].snfs_momentum) == (False, 0.9)
    assert settings("resnet50", "snfs_redistributed")["mask_updater"].redistribute is None
    assert static["network"].weight_init_method is None
    assert (static["masks"].distribution, static["masks"].custom) == ("uniform", {"stem": 0.0})


# Learning rates just before and after what the papers call drops.
@pytest.mark.parametrize(
    ("network", "rates"),
    [
        ("wrn_22_2", {0: 0.1, 29_999: 0.1, 30_000: 0.02, 60_000: 0.004, 97_655: 0.0008}),
        ("resnet50", {782: 0.8, 1564: 1.6, 9383: 1.6, 9384: 0.16, 21_895: 0.016, 28_151: 0.0016}),
        ("mobilenet_v1", {1251: 0.8, 12_510: 1.6, 12_511: 0.16, 23_459: 0.016, 31_999: 0.0016}),
        ("resnet50_cifar100", {880: 0.05, 1760: 0.1, 20_000: 0.02, 87_890: 0.00016}),
        ("resnet20", {31_999: 0.1, 32_000: 0.01, 48_000: 0.001}),
        ("gru", {0: 7e-4, 199_999: 7e-4}),
        ("lenet300", {0: 1.2e-3, 49_999: 1.2e-3}),
        ("conv2", {0: 2e-4, 19_999: 2e-4}),
        ("conv4", {0: 3e-4, 24_999: 3e-4}),
        ("conv6", {0: 3e-4, 29_999: 3e-4}),
        ("mnist1d_conv", {0: 0.01, 5_999: 0.01}),
    ],
)
def test_published_learning_rates(network, rates):
    made = settings(network)
    rate = made["optimizer"].rate(made["training"].total_steps)
    assert {step: float(rate(step)) for step in rates} == pytest.approx(rates, rel=1e-3)


@pytest.mark.parametrize(
    ("network", "epochs", "images"),
    [
        ("wrn_22_2", 250, 50_000),
        ("resnet50", 102.3, 1_281_167),
        ("resnet50_cifar100", 250, 45_000),
        ("vgg16", 102.3, 1_281_167),
    ],
)
def test_published_lengths(network, epochs, images):
    training = settings(network)["training"]
    assert training.total_steps * training.batch_size / images == pytest.approx(epochs, rel=1e-3)


@pytest.mark.parametrize(
    ("network", "steps"), {"lenet300": 50_000, "conv2": 20_000, "conv4": 25_000, "conv6": 30_000}.items()
)
def test_trainings_of_the_lottery_ticket_paper(network, steps):
    made = settings(network)
    assert (made["training"].total_steps, made["training"].batch_size) == (steps, 60)
    assert made["optimizer"].name == "adam" and made["network"].weight_decay == 0
    # Read explicitly, the protocol changes nothing.
    gin.clear_config()
    named = [f"networks/{network}", "methods/dense", f"protocols/lth_{network}"]
    gin_files.parse([str(CONFIGS / f"{name}.gin") for name in named], [])
    assert gin_names.training() == made["training"] and gin_names.optimizer() == made["optimizer"]


@pytest.mark.parametrize("network", NETWORKS)
def test_updates_end_at_three_quarters_as_the_paper_says(network):
    made = settings(network, "rigl")
    updater, total = made["mask_updater"], made["training"].total_steps
    if network == "gru":
        assert (updater.last_update_step, updater.init_drop_fraction) == (-1, 0.1)
    else:
        assert 0.74 <= updater.last_update_step / total <= 0.79 and updater.init_drop_fraction == 0.3
    assert updater.update_freq == 100 and updater.schedule_alg == "cosine"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Random images of CIFAR's shape, the kind of file that a user brings."""
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "random.npz"
    arrays = {
        f"{kind}_{part}": random.integers(0, 256 if kind == "x" else 10, (n, 32, 32, 3) if kind == "x" else n)
        for part, n in (("train", 60), ("test", 20), ("val", 10))
        for kind in ("x", "y")
    }
    np.savez(path, **{name: a.astype(np.uint8 if name[0] == "x" else np.int64) for name, a in arrays.items()})
    return path


SHORT = [
    "BATCH_SIZE = 8",
    "UPDATE_FREQ = 2",
    "LAST_UPDATE = 6",
    "PRUNING_BEGIN = 1",
    "PRUNING_END = 5",
    "PRUNING_FREQ = 1",
    "training.total_steps = 6",
    "training.log_freq = 3",
    "training.save_freq = 3",
    "training.val_batch_size = 8",
    "optimizer.boundaries = (4,)",
    "optimizer.factors = (0.2,)",
]
NARROW = ["wide_resnet.depth = 10", "wide_resnet.width = 0.5"]


def described(images, method, *bindings) -> Experiment:
    data = [f"data.name = '{images}'", "data.validation_size = None"]
    parse("wrn_22_2", method, *SHORT, *NARROW, *data, *bindings)
    return Experiment.from_gin()


def trained(images, directory, method, *bindings):
    return tiny.train(described(images, method, *bindings), directory)


@pytest.fixture(scope="module")
def rigl_run(images, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "rigl"
    gin.clear_config()
    return directory, trained(images, directory, "rigl")


@pytest.mark.slow
def test_a_wide_resnet_trains_with_rigl(rigl_run):
    directory, result = rigl_run
    assert result["steps"] == 6 and np.isfinite(result["test_loss"])
    first, last = (Reader(directory / f"ckpt-{step}") for step in (0, 6))
    masks = first.names("masks")
    # The stem is dense, as in the paper's code.
    assert first.read("masks", "stem.kernel").all()
    sizes = [first.read("masks", name).size for name in masks if name != "stem.kernel"]
    for reader in (first, last):
        active = [int(reader.read("masks", name).sum()) for name in masks if name != "stem.kernel"]
        assert 1 - sum(active) / sum(sizes) == pytest.approx(0.8, abs=0.01)
    assert any((first.read("masks", name) != last.read("masks", name)).any() for name in masks)
    for name in masks:
        kept = last.read("masks", name)
        assert not last.read("model", name)[~kept].any()
    assert [line["step"] for line in tiny.lines(directory, files.MASK_UPDATES)] == [2, 4]
    assert result["inference_flops"] < 0.6 * result["dense_inference_flops"]


@pytest.mark.slow
def test_a_resumed_run_ends_like_one_that_was_not_stopped(rigl_run, images, tmp_path):
    directory, _ = rigl_run
    broken = tmp_path / "broken"
    shutil.copytree(directory, broken)
    for path in [*broken.glob("ckpt-6*"), *broken.glob("ckpt-5*"), broken / files.RESULT]:
        path.unlink(missing_ok=True)
    trained(images, broken, "rigl")
    one, other = Reader(directory / "ckpt-6"), Reader(broken / "ckpt-6")
    for group in ("model", "masks", "optimizer"):
        assert one.names(group) == other.names(group)
        for name in one.names(group):
            np.testing.assert_array_equal(one.read(group, name), other.read(group, name), err_msg=name)
    assert any("noise" in name for name in one.names("model"))
    assert (directory / files.METRICS).read_text() == (broken / files.METRICS).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"rigl"}))
def test_every_method_trains(images, tmp_path, method):
    bindings = []
    if method in FROM_PRUNING:
        trained(images, tmp_path / "prune", "prune")
        bindings = [f"PRUNED_RUN = '{tmp_path}/prune'", f"PRUNED_START = '{tmp_path}/prune/ckpt-0'"]
    result = trained(images, tmp_path / method, method, *bindings)
    assert result["steps"] == 6 and np.isfinite(result["test_loss"])
    if method in ("dense", "small_dense"):
        assert result["sparsity"] == 0
    elif method != "mest":
        # The stem stays dense; half of the other kernels' weights are active in 2:4.
        assert result["sparsity"] == pytest.approx(0.5 if method == "nm" else 0.8, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "bindings"),
    [
        ("resnet20", ["resnet.depth = 8"]),
        ("resnet50_cifar100", ["resnet.depth = 18", "resnet.width = 0.125"]),
        ("mobilenet_v1", ["mobilenet.width = 0.25"]),
        ("mobilenet_v2", ["mobilenet.width = 0.25"]),
        ("vgg16", ["vgg16.width = 0.125"]),
        ("vgg11", ["vgg11.width = 0.125"]),
        ("resnet50_v2", ["resnet.depth = 18", "resnet.width = 0.125"]),
        ("vit_ti", ["vit.patch_size = 16", "vit.depth = 2", "optimizer.schedule = 'constant'"]),
    ],
)
def test_every_network_trains_with_rigl(images, tmp_path, network, bindings):
    data = [
        f"data.name = '{images}'",
        "data.validation_size = None",
        "data.image_size = None",
        "data.augmentation = None",
    ]
    short = [b for b in SHORT if network != "vit_ti" or not b.startswith("optimizer")]
    # The published rates are those of large batches.
    parse(network, "rigl", *short, *data, *bindings, "optimizer.warmup_steps = 0", "optimizer.learning_rate = 0.01")
    result = tiny.train(Experiment.from_gin(), tmp_path / network)
    assert result["steps"] == 6 and np.isfinite(result["test_loss"])
    assert result["sparsity"] > 0.6
