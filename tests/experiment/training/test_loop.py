"""Whole runs: what they write is what an independent computation finds, and measuring never moves them."""

import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.experiment.config.network import UnitScaledSettings
from sparse_lib.experiment.data import Dataset, Split
from sparse_lib.experiment.runtime.errors import Interrupted, RunError, SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader, list_steps
from sparse_lib.experiment.tracking.tags import group_name
from sparse_lib.experiment.training import loop, run
from sparse_lib.experiment.training.build import build_model, build_run
from sparse_lib.experiment.training.loop import Loop
from sparse_lib.experiment.training.steps import Steps
from tests.experiment import tiny
from tests.replicas import two_replicas

SPARSE = {"masks": {"sparsity": 0.7}}
RIGL = {**SPARSE, "mask_updater": {"update_alg": "rigl", "update_freq": 5}}
PRUNE = {"pruning": {"mode": "prune", "final_sparsity": 0.8, "begin_step": 4, "end_step": 16, "frequency": 4}}
UPDATES = [5, 10, 15, 20]
KERNELS = ("dense1/kernel", "dense2/kernel", "dense3/kernel")
SHAPES = ((784, 12), (12, 8), (8, 10))
DENSE_FLOPS = sum(2 * a * b for a, b in SHAPES) + 12 + 8


def groups(directory: pathlib.Path, names=("model", "masks", "explored", "optimizer")) -> dict[str, np.ndarray]:
    reader = Reader(directory)
    return {f"{g}/{n}": reader.read(g, n) for g in names for n in reader.names(g)}


def assert_same(one: pathlib.Path, other: pathlib.Path) -> None:
    first, second = groups(one), groups(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def masks_at(directory: pathlib.Path, checkpoint: str) -> list[np.ndarray]:
    reader = Reader(directory / checkpoint)
    return [reader.read("masks", name) for name in KERNELS]


def sparse_flops(masks: list[np.ndarray]) -> int:
    """Products and sums of the active weights with their biases, and two rectified layers."""
    return sum(2 * int(m.sum()) for m in masks) + 12 + 8


@pytest.fixture(scope="module")
def rigl(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rigl") / "run"
    of = tiny.experiment(**RIGL, training={"save_update_pairs": True})
    return of, directory, tiny.train(of, directory)


@pytest.fixture(scope="module")
def prune(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prune") / "run"
    of = tiny.experiment(**PRUNE, training={"save_update_pairs": True})
    return of, directory, tiny.train(of, directory)


def test_a_run_leaves_its_files(rigl):
    _, directory, result = rigl
    steps = [0, 12, 24, *(-t + before for t in UPDATES for before in (0, 1))]
    checkpoints = {f"ckpt-{step}{end}" for step in steps for end in (".index", ".data-00000-of-00001")}
    rest = {
        "operative_config.gin",
        "run.json",
        "metrics.jsonl",
        "mask_updates.jsonl",
        "result.json",
        "predictions.npz",
        "train_logs",
    }
    assert {path.name for path in directory.iterdir()} == checkpoints | rest
    assert json.loads((directory / files.RESULT).read_text()) == result
    assert [record["step"] for record in tiny.lines(directory)] == [0, 8, 16, 24]
    assert [record["step"] for record in tiny.lines(directory, files.MASK_UPDATES)] == UPDATES


def test_metrics_say_everything(rigl):
    _, directory, _ = rigl
    records = tiny.lines(directory)
    per_layer = ("gradient_norm", "gradient_norm_off_mask", "distance_to_init_l2", "distance_to_init_cosine")
    wanted = {f"{key}/{kernel}" for key in (*per_layer, "sparsity", "exploration_rate") for kernel in KERNELS}
    wanted |= {*per_layer, "sparsity", "exploration_rate", "step", "learning_rate", "momentum_norm", "mask_churn"}
    wanted |= {f"{split}_{what}" for split in ("validation", "test") for what in ("loss", "accuracy")}
    wanted |= {"effective_gradient_flow", "effective_gradient_flow_l1", "predicted_loss_decrease", "real_loss_decrease"}
    wanted |= {"dead_units/dense1", "dead_units/dense2", "training_flops", "active_weights"}
    assert wanted <= records[0].keys()
    assert records[1].keys() - records[0].keys() == {"train_loss", "train_accuracy"}
    assert not any(value is None for record in records for value in record.values())


def test_result_says_what_the_last_checkpoint_holds(rigl):
    of, directory, result = rigl
    model = build_model(of)
    load(model, Reader(directory))
    logits = model(of.dataset.test.images).numpy()
    predictions = np.load(directory / files.PREDICTIONS)
    np.testing.assert_allclose(predictions["logits"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predictions["labels"], of.dataset.test.labels)
    assert result["test_accuracy"] == np.mean(logits.argmax(1) == of.dataset.test.labels)
    active = sum(int(m.sum()) for m in masks_at(directory, "ckpt-24"))
    size = sum(a * b for a, b in SHAPES)
    assert result["active_parameters"] == active + 30 and result["total_parameters"] == size + 30
    assert result["sparsity"] == 1 - active / size
    assert (result["steps"], result["seed"], result["data"]) == (24, 0, "tiny")
    assert result["inference_flops"] == sparse_flops(masks_at(directory, "ckpt-24"))
    assert result["dense_inference_flops"] == DENSE_FLOPS
    assert tiny.lines(directory)[-1]["test_loss"] == pytest.approx(result["test_loss"])


def load(model, reader):
    for variable in model.variables:
        variable.assign(reader.read("model", variable.path))


def gradient_norm(of, directory, checkpoint):
    """Of the masked gradient of the mean cross-entropy on the held-out images, from a checkpoint."""
    model, reader = build_model(of), Reader(directory / checkpoint)
    load(model, reader)
    x, y = of.dataset.validation.images[:40], of.dataset.validation.labels[:40]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True))
    total = 0.0
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        name = variable.path.removeprefix("mlp/")
        active = reader.read("masks", name) if name in KERNELS else 1.0
        total += np.sum((gradient.numpy().astype(np.float64) * active) ** 2)
    return np.sqrt(total)


def test_mask_updates_are_recorded_as_they_happened(rigl):
    of, directory, _ = rigl
    for record in tiny.lines(directory, files.MASK_UPDATES):
        step = record["step"]
        before, after = f"ckpt--{step - 1}", f"ckpt--{step}"
        old, new = masks_at(directory, before), masks_at(directory, after)
        grown = sum(int((n & ~o).sum()) for o, n in zip(old, new, strict=True))
        dropped = sum(int((o & ~n).sum()) for o, n in zip(old, new, strict=True))
        assert record["grown"] == grown == record["dropped"] == dropped > 0
        # The cosine of the learning rate: from 0.3 to 0 over the run.
        assert record["drop_fraction"] == pytest.approx(0.15 * (1 + np.cos(np.pi * step / 24)), rel=1e-5)
        assert record["gradient_norm_before"] == pytest.approx(gradient_norm(of, directory, before), rel=1e-4)
        assert record["gradient_norm_after"] == pytest.approx(gradient_norm(of, directory, after), rel=1e-4)


def test_a_pair_lies_on_both_sides_of_the_update_alone(rigl):
    _, directory, _ = rigl
    for step in UPDATES:
        before, after = (Reader(directory / f"ckpt--{s}") for s in (step - 1, step))
        assert int(before.read("optimizer", "0.iteration")) == step
        assert int(after.read("optimizer", "0.iteration")) == step + 1
        for kernel in KERNELS:
            old, new = (reader.read("model", f"mlp/{kernel}") for reader in (before, after))
            stays = before.read("masks", kernel) & after.read("masks", kernel)
            np.testing.assert_array_equal(old[stays], new[stays])
            assert not new[~stays].any()
    assert list_steps(directory) == [0, 12, 24]


def test_logged_gradient_norm_and_distance_are_those_of_the_checkpoint(rigl):
    of, directory, _ = rigl
    record = tiny.lines(directory)[-1]
    assert record["gradient_norm"] == pytest.approx(gradient_norm(of, directory, "ckpt-24"), rel=1e-4)
    first, last = Reader(directory / "ckpt-0"), Reader(directory / "ckpt-24")
    names = [v.path for v in build_model(of).trainable_variables]
    gaps = [last.read("model", n).astype(np.float64) - first.read("model", n) for n in names]
    assert record["distance_to_init_l2"] == pytest.approx(np.sqrt(sum(np.sum(g**2) for g in gaps)))
    assert tiny.lines(directory)[0]["distance_to_init_l2"] == 0


def test_exploration_and_churn_follow_the_masks(rigl):
    _, directory, _ = rigl
    size = sum(a * b for a, b in SHAPES)
    history = {step: masks_at(directory, f"ckpt--{step}") for step in UPDATES}
    first = masks_at(directory, "ckpt-0")
    at_log = {0: first, 8: history[5], 16: history[15], 24: history[20]}
    ever, logged = [m.copy() for m in first], first
    updates = iter(UPDATES)
    pending = next(updates)
    for record in tiny.lines(directory):
        while pending is not None and pending < record["step"]:
            ever = [e | m for e, m in zip(ever, history[pending], strict=True)]
            pending = next(updates, None)
        now = at_log[record["step"]]
        left = sum(int((o & ~n).sum()) for o, n in zip(logged, now, strict=True))
        assert record["mask_churn"] == pytest.approx(left / sum(int(o.sum()) for o in logged), abs=1e-12)
        assert record["exploration_rate"] == pytest.approx(sum(int(e.sum()) for e in ever) / size)
        assert record["exploration_rate/dense1/kernel"] == pytest.approx(ever[0].mean())
        logged = now
    assert record["mask_churn"] > 0


def test_training_flops_of_rigl(rigl):
    _, directory, result = rigl
    f_s = sparse_flops(masks_at(directory, "ckpt-0"))
    ordinary, updating = 3 * f_s, 2 * f_s + DENSE_FLOPS
    assert result["training_flops"] == 16 * (20 * ordinary + 4 * updating)
    assert tiny.lines(directory)[1]["training_flops"] == 16 * (7 * ordinary + updating)


def test_training_flops_of_pruning_follow_its_masks(prune):
    _, directory, result = prune
    masks, total = masks_at(directory, "ckpt-0"), 0
    for step in range(24):
        total += 16 * 3 * sparse_flops(masks)
        if step in range(4, 17, 4):
            masks = masks_at(directory, f"ckpt--{step}")
    assert result["training_flops"] == total
    # Every layer, to the weight: round(size * 0.2).
    assert [int(m.sum()) for m in masks] == [round(a * b * 0.2) for a, b in SHAPES]


def test_an_update_on_top_of_a_step_counts_its_batch_once(prune, monkeypatch, tmp_path):
    of, directory, _ = prune
    seen = []
    indices = Steps.indices
    monkeypatch.setattr(
        Steps, "indices", lambda self, step, n: seen.extend(range(step, step + n)) or indices(self, step, n)
    )
    added = []
    add = loop.Tally.add
    monkeypatch.setattr(loop.Tally, "add", lambda self, r, f: added.extend(r.losses) or add(self, r, f))
    tiny.train(of, tmp_path)
    assert seen == list(range(24)) and len(added) == 24
    assert int(Reader(directory).read("optimizer", "0.iteration")) == 24
    by_log_step = np.array(added, np.float64).reshape(3, 8).mean(1)
    assert [r["train_loss"] for r in tiny.lines(directory)[1:]] == pytest.approx(by_log_step)
    assert tiny.lines(tmp_path) == tiny.lines(directory)


def test_measuring_does_not_move_the_run(rigl, tmp_path):
    of, directory, _ = rigl
    training = dataclasses.replace(of.training, log_freq=5, save_update_pairs=False)
    tiny.train(dataclasses.replace(of, training=training), tmp_path)
    assert_same(directory, tmp_path)


@pytest.mark.slow
def test_measuring_does_not_move_a_convolutional_run(tmp_path):
    for log_freq in (5, 12):
        of = tiny.experiment(
            "lenet5", **RIGL, initializer=UnitScaledSettings(), training={"log_freq": log_freq, "total_steps": 12}
        )
        tiny.train(of, tmp_path / str(log_freq))
    assert_same(tmp_path / "5", tmp_path / "12")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({**SPARSE, "mask_updater": {"update_alg": "topkast"}}, id="topkast", marks=pytest.mark.slow),
        pytest.param({**SPARSE, "mask_updater": {"update_alg": "snfs", "update_freq": 1}}, id="snfs_at_every_step"),
    ],
)
def test_sums_do_not_depend_on_how_steps_are_chunked(settings, tmp_path):
    results, records = [], []
    for name, saves in (("a", {"save_freq": 12}), ("b", {"save_freq": 5, "save_steps": (3,), "keep_checkpoints": 1})):
        of = tiny.experiment(**settings, training={**saves, "total_steps": 16})
        results.append(tiny.train(of, tmp_path / name))
        records.append(tiny.lines(tmp_path / name))
    assert records[0] == records[1]
    assert results[0]["training_flops"] == results[1]["training_flops"] > 0
    assert_same(tmp_path / "a", tmp_path / "b")
    assert list_steps(tmp_path / "b") == [0, 3, 16]


def test_methods_that_update_at_every_step_leave_no_records(tmp_path):
    of = tiny.experiment(**SPARSE, mask_updater={"update_alg": "dnw"}, training={"total_steps": 16})
    result = tiny.train(of, tmp_path)
    assert not (tmp_path / files.MASK_UPDATES).exists()
    f_s = sparse_flops(masks_at(tmp_path, "ckpt-16"))
    assert result["training_flops"] == 16 * 16 * (2 * f_s + DENSE_FLOPS)
    assert tiny.lines(tmp_path)[-1]["mask_churn"] > 0


def test_a_dense_run(tmp_path):
    result = tiny.train(tiny.experiment(optimizer={"name": "adam", "learning_rate": 0.01}), tmp_path)
    assert result["sparsity"] == 0 and result["active_parameters"] == result["total_parameters"]
    assert result["training_flops"] == 24 * 16 * 3 * DENSE_FLOPS
    assert not (tmp_path / files.MASK_UPDATES).exists()
    record = tiny.lines(tmp_path)[-1]
    assert record["gradient_norm_off_mask"] == 0 and record["exploration_rate"] == 1
    assert {"momentum_norm", "velocity_norm"} <= record.keys()


def test_a_run_without_validation_images_measures_on_training_images(tmp_path):
    full = tiny.dataset()
    empty = Split(full.validation.images[:0], full.validation.labels[:0])
    dataset = Dataset("none", full.train, empty, full.test, num_classes=10)
    updater = {**RIGL["mask_updater"], "growth_gradient": "held_out"}
    of = tiny.experiment(**SPARSE, mask_updater=updater, dataset=dataset, training={"total_steps": 8})
    tiny.train(of, tmp_path)
    record = tiny.lines(tmp_path)[-1]
    assert "validation_loss" not in record and record["gradient_norm"] > 0


def test_tampering_with_a_masked_weight_is_noticed(tmp_path, monkeypatch):
    start, run_steps, kernels = Loop.__init__, Steps.run, []

    def remember(self, directory, model, optimizer, *rest):
        kernels.append(optimizer.masks.kernels[1])
        start(self, directory, model, optimizer, *rest)

    def tamper(*args, **options):
        result = run_steps(*args, **options)
        kernels[0].assign(tf.ones(kernels[0].shape))
        return result

    monkeypatch.setattr(Loop, "__init__", remember)
    monkeypatch.setattr(Steps, "run", tamper)
    with pytest.raises(AssertionError, match=r"Masked weights of dense2/kernel are not zero"):
        tiny.train(tiny.experiment(**SPARSE), tmp_path)
    assert list_steps(tmp_path) == [0] and [r["step"] for r in tiny.lines(tmp_path)] == [0]


def test_a_loss_that_is_not_finite_ends_the_run_and_loses_nothing(tmp_path):
    of = tiny.experiment(**RIGL, optimizer={"learning_rate": 1e30})
    with pytest.raises(RunError, match=r"^The training loss is (nan|inf) at step \d+: lower optimizer\.learning_rate"):
        tiny.train(of, tmp_path)
    assert list_steps(tmp_path) == [0]
    assert all(np.isfinite(value).all() for name, value in groups(tmp_path).items() if name.startswith("model"))
    with pytest.raises(RunError, match=r"The training loss is"):
        tiny.train(of, tmp_path)


def test_weights_that_are_not_finite_are_neither_logged_nor_saved(tmp_path, monkeypatch):
    # The loss of a step is that of the weights before it: what the last step does, no loss tells.
    of = tiny.experiment(training={"total_steps": 2, "log_freq": 1, "save_freq": 1}, optimizer={"learning_rate": 1e38})
    run_steps = Steps.run

    def hide(*args, **options):
        result = run_steps(*args, **options)
        return dataclasses.replace(result, losses=np.nan_to_num(result.losses, posinf=0.0))

    monkeypatch.setattr(Steps, "run", hide)
    with pytest.raises(RunError, match=r"^Weights of mlp/dense\d/\w+ are not finite before step 2: lower"):
        tiny.train(of, tmp_path)
    assert list_steps(tmp_path) == [0, 1] and [record["step"] for record in tiny.lines(tmp_path)] == [0, 1]
    assert all(np.isfinite(value).all() for name, value in groups(tmp_path).items() if name.startswith("model"))
    assert json.loads((tmp_path / files.RESULT).read_text())["outcome"] == "diverged"


def test_a_finished_run_is_left_as_it_is(rigl, monkeypatch):
    of, directory, result = rigl
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    monkeypatch.setattr("sparse_lib.experiment.training.build.build_run", lambda *_, **__: pytest.fail("built again"))
    assert tiny.train(of, directory) == result
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_overwrite_starts_again(tmp_path):
    tiny.train(tiny.experiment(training={"total_steps": 9}), tmp_path)
    result = tiny.train(tiny.experiment(training={"total_steps": 4}), tmp_path, overwrite=True)
    assert result["steps"] == 4 and list_steps(tmp_path) == [0, 4]
    assert [record["step"] for record in tiny.lines(tmp_path)] == [0, 4]


def test_overwrite_deletes_nothing_before_the_new_run_is_built(tmp_path):
    tiny.train(tiny.experiment(training={"total_steps": 4}), tmp_path)
    broken = tiny.experiment(network={"mask_init_path": str(tmp_path / "nowhere" / "ckpt-1")})
    with pytest.raises(RunError, match="There is no checkpoint"):
        tiny.train(broken, tmp_path, overwrite=True)
    assert list_steps(tmp_path) == [0, 4] and (tmp_path / files.RESULT).exists()


def test_a_run_that_cannot_be_built_claims_no_directory(tmp_path):
    with pytest.raises(RunError, match="There is no checkpoint"):
        tiny.train(tiny.experiment(network={"mask_init_path": "/nowhere/ckpt-1"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_stops_the_run_and_the_same_call_goes_on(rigl, tmp_path, monkeypatch):
    of, directory, result = rigl
    steps = Steps.run
    monkeypatch.setattr(
        Steps, "run", lambda self, step, n, **k: signal.raise_signal(signal.SIGTERM) or steps(self, step, n, **k)
    )
    with pytest.raises(Interrupted, match="Stopped at step 5; the same command goes on from there") as caught:
        tiny.train(of, tmp_path)
    assert caught.value.signal == signal.SIGTERM
    assert list_steps(tmp_path) == [0, 5]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()
    resumed = tiny.train(of, tmp_path)
    assert_same(directory, tmp_path)
    for name in (files.METRICS, files.MASK_UPDATES):
        assert (tmp_path / name).read_text() == (directory / name).read_text()
    untimed = [{k: v for k, v in r.items() if k not in ("wall_seconds", "steps_per_second")} for r in (result, resumed)]
    assert untimed[0] == untimed[1]


def test_a_run_taken_up_right_at_a_mask_update_counts_on(prune, tmp_path):
    of, directory, result = prune
    shutil.copytree(directory, tmp_path / "run")
    for path in [tmp_path / "run" / files.RESULT, *(tmp_path / "run").glob("ckpt-24.*")]:
        path.unlink()
    resumed = tiny.train(of, tmp_path / "run")
    assert resumed["training_flops"] == result["training_flops"]
    for name in (files.METRICS, files.MASK_UPDATES):
        assert (tmp_path / "run" / name).read_text() == (directory / name).read_text()


def assert_trained_alike(directory: pathlib.Path, other: pathlib.Path) -> None:
    """Same masks and counts; weights as close as sums in another order are."""
    first, second = groups(directory), groups(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, second[name], rtol=1e-3, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(value, second[name], err_msg=name)
    for one, two in zip(tiny.lines(directory), tiny.lines(other), strict=True):
        assert one.keys() == two.keys()
        for key in ("test_accuracy", "train_accuracy", "mask_churn", "training_flops"):
            assert one.get(key) == two.get(key)
        assert one["gradient_norm"] == pytest.approx(two["gradient_norm"], rel=1e-3)


@pytest.mark.slow
def test_two_replicas_train_and_evaluate_as_one_device_does(rigl, tmp_path):
    of, directory, _ = rigl
    with two_replicas().scope():
        tiny.train(of, tmp_path)
        shared = run.evaluate(of, directory)
    assert_trained_alike(directory, tmp_path)
    assert shared == pytest.approx(run.evaluate(of, directory), rel=1e-6)


ON_FOUR = """
import json, pathlib, sys
import tests.conftest
from sparse_lib._utils import distribute
from tests.experiment import tiny

strategy = distribute.make_strategy("mirrored")
assert strategy.num_replicas_in_sync == 4
with strategy.scope():
    tiny.train(tiny.experiment(**json.loads(sys.argv[2])), pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_four_replicas_train_as_one_device_does(rigl, tmp_path):
    # Of their own process: its collective operations would meet those of the two replicas.
    settings = json.dumps({**RIGL, "training": {"save_update_pairs": True}})
    command = [sys.executable, "-c", ON_FOUR, str(tmp_path), settings]
    subprocess.run(command, check=True, cwd=pathlib.Path(__file__).parents[3])
    assert_trained_alike(rigl[1], tmp_path)


def test_bfloat16_computes_and_float32_keeps(rigl, tmp_path):
    plain, directory, exact = rigl
    of = dataclasses.replace(plain, network=dataclasses.replace(plain.network, compute_dtype="bfloat16"))
    model = build_model(of)
    assert {layer.compute_dtype for layer in model.layers} == {"bfloat16"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    result = tiny.train(of, tmp_path / "run")
    first, last = tiny.lines(tmp_path / "run")[0], tiny.lines(tmp_path / "run")[-1]
    assert last["test_loss"] < first["test_loss"]
    # Eight bits of mantissa: the same start, another end.
    assert first["test_loss"] == pytest.approx(tiny.lines(directory)[0]["test_loss"], rel=2e-2)
    assert result["sparsity"] == exact["sparsity"]
    assert keras.config.dtype_policy().name == "float32"


def test_a_batch_that_cannot_be_shared_out_is_told():
    of = tiny.experiment(training={"batch_size": 15})
    with (
        two_replicas().scope(),
        pytest.raises(SettingError, match=r"batch_size=15 cannot be shared out over 2 replicas"),
    ):
        build_run(of, fresh=True)


def test_tensorboard_gets_the_same_scalars(rigl):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    _, directory, _ = rigl
    found = {}
    for path in (directory / files.TENSORBOARD).iterdir():
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found.setdefault(event.step, {})[value.tag] = value.tensor.float_val[0]
    for record in tiny.lines(directory):
        step = record.pop("step")
        assert found[step] == pytest.approx({group_name(name): value for name, value in record.items()}, rel=1e-6)


def test_evaluate_tells_a_checkpoint_of_the_run(rigl):
    of, directory, result = rigl
    values = run.evaluate(of, directory)
    assert values["test_accuracy"] == result["test_accuracy"]
    assert values["train_loss"] == pytest.approx(result["train_loss"])
    assert values["sparsity"] == pytest.approx(result["sparsity"])
    assert run.evaluate(of, directory / "ckpt-0")["test_loss"] == pytest.approx(tiny.lines(directory)[0]["test_loss"])


def test_dormant_units_are_recycled_between_steps(tmp_path):
    made = tiny.experiment(
        masks={"sparsity": 0.6},
        training={**tiny.TRAINING, "recycle_freq": 10, "dormant_threshold": 0.7, "log_freq": 10, "save_freq": 10},
    )
    tiny.train(made, tmp_path / "run")
    plain = dataclasses.replace(made, training=dataclasses.replace(made.training, recycle_freq=None))
    tiny.train(plain, tmp_path / "plain")
    # The checkpoint of a step is from before its recycling, after which the runs part.
    assert_same(tmp_path / "run" / "ckpt-10", tmp_path / "plain" / "ckpt-10")
    run, other = (Reader(tmp_path / name / "ckpt-20") for name in ("run", "plain"))
    assert any(np.any(run.read("model", n) != other.read("model", n)) for n in run.names("model"))
    for line in tiny.lines(tmp_path / "run", files.METRICS):
        assert 0 < line["dormant_units"] < 1
