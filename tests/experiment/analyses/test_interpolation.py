"""Paths between checkpoints: against plain evaluation and numpy, killed and resumed, and everything that cannot be."""

import csv
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.experiment.analyses import curves, interpolation, solutions
from sparse_lib.experiment.config.analyses import InterpolateSettings
from sparse_lib.experiment.data import Split, batch_indices
from sparse_lib.experiment.networks import MLP
from sparse_lib.experiment.runtime.errors import Interrupted, RunError, SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import build_model
from sparse_lib.experiment.training.metrics import Evaluator
from tests.experiment import tiny
from tests.experiment.interruptions import asked_to_stop, power_cut

ROOT = pathlib.Path(__file__).parents[3]
SPLITS = ("train", "validation", "test")
NORMED = MLP(hidden_sizes=(12, 8), use_batch_norm=True)
KINDS = {"mlp": ("mlp", None), "lenet5": ("lenet5", None), "norm": ("mlp", NORMED)}


def experiment(kind, seed):
    name, sizes = KINDS[kind]
    return tiny.experiment(name, sizes=sizes, masks={"sparsity": 0.6}, training={"seed": seed, "save_freq": 24})


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs of other seeds and masks, made when they are asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = [folder / f"seed{seed}" for seed in (1, 2)]
            for seed, directory in zip((1, 2), made[kind], strict=True):
                tiny.train(experiment(kind, seed), directory)
        return made[kind]

    return of


@pytest.fixture
def go(pair, tmp_path):
    """Interpolates between the two runs of a kind; returns the summary."""

    def interpolate(kind="mlp", directory=tmp_path / "out", overwrite=False, turned=False, **settings):
        start, end = reversed(pair(kind)) if turned else pair(kind)
        made = InterpolateSettings(**{"n_interpolation": 8, **settings})
        return interpolation.interpolate(
            experiment(kind, 1), made, start=start, end=end, directory=directory, overwrite=overwrite
        )

    return interpolate


def rows(directory):
    """The table: (coefficient, split) -> (loss, accuracy)."""
    with (directory / files.INTERPOLATION).open() as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["coefficient", "split", "loss", "accuracy"]
    found = {(float(r["coefficient"]), r["split"]): (float(r["loss"]), float(r["accuracy"])) for r in read}
    assert len(found) == len(read)
    return found


def loaded(kind, directory):
    """The network of a run with its last weights, and its masks by variable, all ones for a dense one."""
    made = experiment(kind, 1)
    model, reader = build_model(made), Reader(directory)
    for variable in model.variables:
        variable.assign(reader.read("model", variable.path))
    masks = {id(k): reader.read("masks", n) for n, k in made.network.kernels(model).items()}
    return model, [masks.get(id(v), np.ones(v.shape, bool)) for v in model.trainable_variables]


def evaluated(model, values, split="test"):
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
    return Evaluator(model).evaluate(getattr(tiny.dataset(), split))


@pytest.mark.parametrize("masks", ["own", "union", "none"])
@pytest.mark.parametrize("kind", ["mlp", pytest.param("lenet5", marks=pytest.mark.slow)])
def test_the_ends_are_plain_evaluation_to_the_last_bit(kind, masks, go, pair, tmp_path):
    summary = go(kind, masks=masks)
    table = rows(tmp_path / "out")
    for place, name, directory in zip((0.0, 1.0), ("start", "end"), pair(kind), strict=True):
        plain = run.evaluate(experiment(kind, 1), directory)
        for split in SPLITS:
            assert table[place, split] == (plain[f"{split}_loss"], plain[f"{split}_accuracy"])
            assert summary["ends"][name][split] == dict(zip(("loss", "accuracy"), table[place, split], strict=True))
    assert summary["removed_weights"] == {"start": 0, "end": 0}


@pytest.mark.parametrize("masks", ["own", "start", "end", "union", "none"])
def test_each_choice_of_masks_by_hand(masks, go, pair, tmp_path):
    # Checkpoints that are not zero off their masks, as other code leaves them, tell all choices apart.
    kind, folders, noise, rng = "mlp", pair("mlp"), {}, np.random.default_rng(0)
    read = solutions.Reader.read_group

    def raw(self, group, variables, network):
        values = read(self, group, variables, network)
        if group == "model":
            for path, value in values.items():
                key = (self.prefix, path)
                noise.setdefault(key, 0.05 * rng.normal(size=value.shape).astype(np.float32))
                values[path] = value + noise[key]
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solutions.Reader, "read_group", raw)
        made = experiment(kind, 1)
        settings = InterpolateSettings(n_interpolation=3, i_start=0.0, i_end=1.0, masks=masks)
        summary = interpolation.interpolate(made, settings, start=folders[0], end=folders[1], directory=tmp_path / "o")
    sides = []
    for directory in folders:
        model, own = loaded(kind, directory)
        prefix = Reader(directory).prefix
        sides.append(([v.numpy() + noise[prefix, v.path] for v in model.trainable_variables], own))
    (start, of_start), (end, of_end) = sides
    everything = [np.ones_like(m) for m in of_start]
    union = [a | b for a, b in zip(of_start, of_end, strict=True)]
    chosen = {
        "own": (of_start, of_end),
        "start": (of_start, of_start),
        "end": (of_end, of_end),
        "union": (union, union),
        "none": (everything, everything),
    }[masks]
    middle = [
        ((a * m).astype(np.float64) + (b * n).astype(np.float64)) / 2
        for a, m, b, n in zip(start, chosen[0], end, chosen[1], strict=True)
    ]
    table = rows(tmp_path / "o")
    for split in SPLITS:
        assert table[0.5, split] == evaluated(model, middle, split)
    assert summary["masks"] == masks
    for name, values, mask in (("start", start, chosen[0]), ("end", end, chosen[1])):
        cut = sum(int(((value != 0) & ~m).sum()) for value, m in zip(values, mask, strict=True))
        assert summary["removed_weights"][name] == cut


def test_masks_that_cut_an_end_are_told(go, pair, caplog):
    summary = go(masks="start", n_interpolation=2)
    (_, of_start), (end, _) = (loaded("mlp", directory) for directory in pair("mlp"))
    cut = sum(int(np.sum((v.numpy() != 0) & ~m)) for v, m in zip(end.trainable_variables, of_start, strict=True))
    assert summary["removed_weights"] == {"start": 0, "end": cut} and cut > 0
    assert f"set {cut} weights of the end to 0" in caplog.text


def test_the_barrier_is_that_of_the_table(go, tmp_path):
    summary = go(n_interpolation=15)
    table = rows(tmp_path / "out")
    grid = sorted({a for a, _ in table})
    assert grid == [round(-0.2 + 0.1 * k, 1) for k in range(15)] and summary["added_coefficients"] == []
    inside = [a for a in grid if 0 <= a <= 1]
    for split in SPLITS:
        for what, of in (("loss", lambda row: row[0]), ("error", lambda row: 1 - row[1])):
            value = {a: of(table[a, split]) for a in inside}
            line = {a: (1 - a) * value[0.0] + a * value[1.0] for a in inside}
            found = summary["barrier"][split][what]
            assert found["above_line"]["height"] == pytest.approx(max(value[a] - line[a] for a in inside), abs=1e-12)
            higher = max(value[0.0], value[1.0])
            peak = max(inside, key=lambda a: value[a])
            assert found["above_higher_end"] == {"height": value[peak] - higher, "coefficient": peak}
            mean = (value[0.0] + value[1.0]) / 2
            assert found["above_mean"]["height"] == pytest.approx(value[peak] - mean)
            rise = max(value[b] - value[a] for a in inside for b in inside if a <= b)
            assert found["largest_rise"]["height"] == pytest.approx(rise, abs=1e-12)


def test_a_range_without_the_ends_gets_them(go, tmp_path):
    summary = go(i_start=0.25, i_end=1.0, n_interpolation=4)
    assert summary["added_coefficients"] == [0.0]
    assert sorted({a for a, _ in rows(tmp_path / "out")}) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_path_to_itself_is_flat_at_every_point(pair, tmp_path):
    (directory, _), made = pair("mlp"), experiment("mlp", 1)
    summary = interpolation.interpolate(
        made, InterpolateSettings(), start=directory, end=directory, directory=tmp_path / "out"
    )
    table = rows(tmp_path / "out")
    assert len(table) == 29 * 3
    assert all(len({table[a, split] for a, _ in table}) == 1 for split in SPLITS)
    assert summary["length"] == summary["distance"] == 0


def test_the_distance_is_that_of_the_weights(go, pair):
    start, end = (loaded("mlp", d)[0] for d in pair("mlp"))
    squares = sum(
        float(((a.numpy().astype(np.float64) - b.numpy()) ** 2).sum())
        for a, b in zip(start.trainable_variables, end.trainable_variables, strict=True)
    )
    summary = go(n_interpolation=2)
    assert summary["distance"] == pytest.approx(np.sqrt(squares)) == summary["length"]


def middle_of_norms(pair, mean, variance):
    """Loss and accuracy in the middle of the line, with batch-norm statistics chosen by kind."""
    models = [loaded("norm", directory)[0] for directory in pair("norm")]
    values = [
        (a.numpy().astype(np.float64) + b.numpy()) / 2
        for a, b in zip(*(m.trainable_variables for m in models), strict=True)
    ]
    pairs = list(zip(*(m.non_trainable_variables for m in models), strict=True))
    model = models[0]
    chosen = [(variance if a.name.endswith("variance") else mean)(a.numpy(), b.numpy()) for a, b in pairs]
    for (variable, _), value in zip(pairs, chosen, strict=True):
        variable.assign(value)
    return evaluated(model, values)


@pytest.mark.parametrize(
    ("batch_norm", "choose"),
    [
        ("start", lambda a, b: a),
        ("end", lambda a, b: b),
        ("interpolate", lambda a, b: (a.astype(np.float64) + b) / 2),
    ],
)
def test_batch_norm_statistics_of_the_ends(batch_norm, choose, go, pair, tmp_path):
    summary = go("norm", batch_norm=batch_norm, n_interpolation=3, i_start=0.0, i_end=1.0)
    assert summary["batch_norm"] == batch_norm
    assert rows(tmp_path / "out")[0.5, "test"] == middle_of_norms(pair, choose, choose)


def test_batch_norm_statistics_are_estimated_again_by_hand(go, pair, tmp_path):
    summary = go("norm", n_interpolation=3, i_start=0.0, i_end=1.0, batch_size=32, batch_norm_batches=4, seed=3)
    assert summary["batch_norm"] == "reestimate"
    models = [loaded("norm", directory)[0] for directory in pair("norm")]
    model, values = models[0], []
    for a, b in zip(*(m.trainable_variables for m in models), strict=True):
        values.append(((a.numpy().astype(np.float64) + b.numpy()) / 2).astype(np.float32))
        a.assign(values[-1])
    train = tiny.dataset().train
    batches = batch_indices(seed=3, first_step=0, steps=4, batch_size=32, n=len(train))
    each = []
    for batch in batches:
        x, of_batch = train.images[batch].reshape(32, -1).astype(np.float64), []
        w = {v.path.split("/", 1)[1]: v.numpy().astype(np.float64) for v in model.trainable_variables}
        for layer in ("dense1", "dense2"):
            x = np.maximum(x @ w[f"{layer}/kernel"] + w[f"{layer}/bias"], 0)
            of_batch += [x.mean(0), x.var(0)]
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) * w[f"{layer}_norm/gamma"] + w[f"{layer}_norm/beta"]
        each.append(of_batch)
    for variable, parts in zip(model.non_trainable_variables, zip(*each, strict=True), strict=True):
        variable.assign(np.mean(parts, axis=0))
    expected = evaluated(model, values)
    assert rows(tmp_path / "out")[0.5, "test"] == pytest.approx(expected, rel=1e-4)


def test_with_batch_norm_the_checkpoints_themselves_are_named(go, pair, tmp_path):
    summary = go("norm", n_interpolation=2)
    table = rows(tmp_path / "out")
    for name, directory, place in zip(("start", "end"), pair("norm"), (0.0, 1.0), strict=True):
        plain = run.evaluate(experiment("norm", 1), directory)
        assert summary["ends"][name]["test"]["loss"] == plain["test_loss"] != table[place, "test"][0]


def test_variances_beyond_the_ends_stay_what_variances_are(go):
    summary = go("norm", batch_norm="interpolate", i_start=-50.0, i_end=50.0, n_interpolation=2)
    assert summary["not_finite"] == []


def contents(directory):
    return [(directory / name).read_bytes() for name in (files.INTERPOLATION, files.INTERPOLATION_SUMMARY)]


def killed_at(monkeypatch, owner, name, place, how):
    """Lets a method do something before its call of that number."""
    original, calls = getattr(owner, name), []

    def wrapped(self, *arguments):
        calls.append(arguments)
        if len(calls) == place:
            how()
        return original(self, *arguments)

    monkeypatch.setattr(owner, name, wrapped)
    return calls


@pytest.mark.parametrize(("how", "error"), [(power_cut, ZeroDivisionError), (asked_to_stop, Interrupted)])
@pytest.mark.parametrize("kind", ["mlp", "norm"])
def test_a_killed_interpolation_goes_on(kind, how, error, go, tmp_path, monkeypatch):
    go(kind)
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        # The first two calls are the checkpoints themselves.
        killed_at(patch, solutions.PointEvaluator, "__call__", 6, how)
        with pytest.raises(error):
            go(kind, directory=out)
    assert json.loads((out / files.INTERPOLATION_SUMMARY).read_text())["complete"] is False
    done = len(rows(out))
    assert done == 3 * (3 if how is power_cut else 4)
    calls = killed_at(monkeypatch, solutions.PointEvaluator, "__call__", 0, power_cut)
    go(kind, directory=out)
    assert len(calls) == 2 + 8 - done // 3
    assert contents(out) == contents(tmp_path / "out")
    # What is finished is read, not computed.
    del calls[:]
    assert go(kind, directory=out) == json.loads((out / files.INTERPOLATION_SUMMARY).read_text())
    assert calls == []


CURVE = {"path": "quadratic", "steps": 210, "batch_size": 16, "learning_rate": 0.05, "n_interpolation": 8}


@pytest.mark.parametrize(
    ("how", "error"),
    [(power_cut, ZeroDivisionError), pytest.param(asked_to_stop, Interrupted, marks=pytest.mark.slow)],
)
def test_a_killed_curve_goes_on(how, error, go, tmp_path, monkeypatch):
    go(**CURVE)
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(curves, "SAVE_SECONDS", 0.0)
        killed_at(patch, curves.CurveFit, "run", 2, how)
        with pytest.raises(error):
            go(directory=out, **CURVE)
    assert not (out / files.INTERPOLATION).exists()
    saved = [path.name for path in (out / files.INTERPOLATION_CURVE).glob("*.index")]
    assert saved == ["ckpt-100.index" if how is power_cut else "ckpt-200.index"]
    go(directory=out, **CURVE)
    assert contents(out) == contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "masks"),
    [
        ("quadratic", "own"),
        ("cubic", "none"),
        pytest.param("quadratic", "start", marks=pytest.mark.slow),
        pytest.param("quadratic", "union", marks=pytest.mark.slow),
        pytest.param("quadratic", "none", marks=pytest.mark.slow),
        pytest.param("cubic", "own", marks=pytest.mark.slow),
    ],
)
def test_a_curve_lies_lower_and_stays_in_its_subspace(path, masks, go, pair, tmp_path):
    line = go(masks=masks, i_start=0.0, i_end=1.0)
    curve = go(directory=tmp_path / "curve", **{**CURVE, "path": path, "masks": masks, "i_start": 0.0, "i_end": 1.0})
    assert curve["length"] > curve["distance"] == line["distance"]

    def mean_loss(directory):
        return np.mean([loss for (_, split), (loss, _) in rows(directory).items() if split == "train"])

    assert mean_loss(tmp_path / "curve") < mean_loss(tmp_path / "out")
    for place in (0.0, 1.0):
        assert rows(tmp_path / "curve")[place, "test"] == rows(tmp_path / "out")[place, "test"]
    (_, of_start), (_, of_end) = (loaded("mlp", directory) for directory in pair("mlp"))
    state = Reader(tmp_path / "curve" / files.INTERPOLATION_CURVE)
    for k in range(1, 3 if path == "cubic" else 2):
        for i, (a, b) in enumerate(zip(of_start, of_end, strict=True)):
            point = state.read("points", f"point{k}.{i}")
            allowed = {"own": a | b, "union": a | b, "start": a, "none": np.ones_like(a)}[masks]
            assert not point[~allowed].any()
            assert np.mean(point[allowed] != 0) > 0.1


@pytest.mark.slow
def test_curves_of_two_seeds_differ_and_repeat(go, tmp_path):
    first, again, other = (go(directory=tmp_path / n, **CURVE, seed=s) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert first["length"] == again["length"] != other["length"]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.slow
def test_a_curve_with_adam(go):
    settings = {**CURVE, "optimizer": "adam", "learning_rate": 0.01}
    summary = go(**settings)
    assert summary["length"] > summary["distance"]


def test_images_that_are_no_array_are_read_by_rows():
    split = tiny.dataset().train

    class OnDisk:
        shape = split.images.shape

        def __getitem__(self, rows):
            return split.images[rows]

    # The split is only read; what it may hold is checked elsewhere.
    whole, read = (curves.make_examples(Split(images, split.labels)) for images in (split.images, OnDisk()))
    rows = tf.constant([3, 199, 3], tf.int32)
    for examples in (whole, read):
        images, labels = tf.function(examples.batch)(rows)
        assert images.shape == (3, 28, 28, 1) and examples.size == 200
        np.testing.assert_array_equal(images, split.images[[3, 199, 3]])
        np.testing.assert_array_equal(labels, split.labels[[3, 199, 3]])


def test_another_interpolation_in_the_same_directory(go, tmp_path):
    go()
    before = contents(tmp_path / "out")
    with pytest.raises(RunError, match=r"json is another result \(masks is 'own' there and 'none' here\)"):
        go(masks="none")
    with pytest.raises(RunError, match=r"another result \(start_sha256 is"):
        go(turned=True)
    assert contents(tmp_path / "out") == before
    go(masks="none", overwrite=True)
    assert json.loads((tmp_path / "out" / files.INTERPOLATION_SUMMARY).read_text())["masks"] == "none"


def test_what_does_not_matter_is_not_compared(go, tmp_path):
    go()
    before = contents(tmp_path / "out")
    go(seed=7, batch_size=9, steps=3, batch_norm="start")
    assert contents(tmp_path / "out") == before


def test_it_may_lie_in_a_run_directory_and_goes_with_the_run(pair, tmp_path):
    run_directory = shutil.copytree(pair("mlp")[0], tmp_path / "run")
    made = experiment("mlp", 1)
    interpolation.interpolate(
        made, InterpolateSettings(**CURVE), start=run_directory, end=pair("mlp")[1], directory=run_directory
    )
    assert tiny.train(made, run_directory)["steps"] == 24
    assert (run_directory / files.INTERPOLATION).exists()
    tiny.train(made, run_directory, overwrite=True)
    assert not any((run_directory / name).exists() for name in files.RUN_FILES if "interpolation" in name)


def test_a_number_that_is_none_on_the_path_is_told_and_the_rest_is_kept(go, tmp_path, monkeypatch):
    evaluate = interpolation.PointEvaluator.__call__
    calls = []

    def broken(self, values, statistics):
        scores = evaluate(self, values, statistics)
        calls.append(1)
        if len(calls) == 7:
            return {**scores, "train": solutions.Score(float("nan"), 0.1)}
        return scores

    monkeypatch.setattr(interpolation.PointEvaluator, "__call__", broken)
    message = r"The loss is not finite at 0\.6 on the path; .*interpolation.csv holds all points"
    for _ in range(2):
        with pytest.raises(RunError, match=message):
            go()
    table = rows(tmp_path / "out")
    assert len(table) == 8 * 3 and np.isnan(table[0.6, "train"][0])
    summary = json.loads((tmp_path / "out" / files.INTERPOLATION_SUMMARY).read_text())
    assert summary["not_finite"] == [0.6] and summary["complete"] is True
    assert summary["barrier"]["train"]["loss"]["above_line"] == {"height": None, "coefficient": None}
    assert summary["barrier"]["test"]["loss"]["above_line"]["height"] is not None
    assert summary["barrier"]["train"]["error"]["above_line"]["height"] is not None


def test_a_curve_that_diverges_is_told(go, tmp_path):
    with pytest.raises(ValueError, match="The loss along the curve is (nan|inf) at step"):
        go(**{**CURVE, "learning_rate": 1e30})
    assert not (tmp_path / "out" / files.INTERPOLATION).exists()


def test_a_checkpoint_with_numbers_that_are_none(pair, tmp_path, monkeypatch):
    read = solutions.Reader.read_group

    def broken(self, group, variables, network):
        values = read(self, group, variables, network)
        return {k: v + np.inf if k.endswith("bias") else v for k, v in values.items()}

    monkeypatch.setattr(solutions.Reader, "read_group", broken)
    start, end = pair("mlp")
    with pytest.raises(RunError, match="mlp/dense1/bias of checkpoint .* is not finite"):
        interpolation.interpolate(
            experiment("mlp", 1), InterpolateSettings(), start=start, end=end, directory=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_interpolation": 1}, "interpolate.n_interpolation=1 must be at least 2"),
        ({"i_start": 1.5}, "interpolate.i_start=1.5 must be below interpolate.i_end"),
        ({"path": "quartic"}, "interpolate.path='quartic' must be 'line' or 'quadratic' or 'cubic'"),
        ({"masks": "both"}, "interpolate.masks='both' must be 'own' or"),
        ({"steps": 0}, "interpolate.steps=0 must be at least 1 and at most 1,000,000,000, or None"),
        ({"batch_size": 0}, "interpolate.batch_size=0 must be at least 1"),
        ({"batch_norm_batches": 0}, "interpolate.batch_norm_batches=0 must be at least 1"),
        ({"learning_rate": 0.0}, "interpolate.learning_rate=0.0 must be above 0"),
        ({"seed": -1}, "interpolate.seed=-1 must be at least 0"),
    ],
)
def test_settings_that_cannot_be_meant(setting, message):
    with pytest.raises(SettingError, match=message):
        InterpolateSettings(**setting)


def test_every_key_of_the_summary_is_documented_and_the_other_way_round(go):
    text = (ROOT / "docs" / "interpolation.md").read_text(encoding="utf8")
    keys, heights = (re.findall(r"`(\w+)`", part) for part in documented_tables(text))
    summary = go()
    assert sorted(keys) == sorted(summary)
    assert sorted(heights) == sorted(summary["barrier"]["test"]["loss"])


def documented_tables(text):
    """First cells of the tables that begin with a column `key`."""
    for table in re.findall(r"^\| key \|.*?\n\n", text, re.DOTALL | re.MULTILINE):
        yield " ".join(row.split("|")[1] for row in table.strip().splitlines()[2:])


TINY = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(8,)",
    "training.total_steps=4",
    "training.batch_size=16",
    "training.jit_compile=False",
    "masks.sparsity=0.5",
]


@pytest.fixture(scope="module")
def runs(train_by_command, tmp_path_factory):
    """Two runs as the command line leaves them."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        train_by_command(folder / f"seed{seed}", TINY, seed=seed)
    return folder


def command(runs, out, *more):
    """The published command line, with more flags that win."""
    flags_of = {
        "--logdir": out,
        "--ckpt_start": runs / "seed1" / "ckpt-4",
        "--ckpt_end": runs / "seed2" / "ckpt-4",
        "--operative_gin": runs / "seed2" / files.OPERATIVE_CONFIG,
        "--gin_config": ROOT / "configs" / "interpolate.gin",
    }
    return [*(f"{name}={value}" for name, value in flags_of.items()), *more]


def summary_of(directory):
    return json.loads((directory / files.INTERPOLATION_SUMMARY).read_text())


PUBLISHED = "interpolate.i_start = -0.20\ninterpolate.i_end = 1.20\ninterpolate.n_interpolation = 29\n"


def test_the_command_lines_of_old_and_new(call, runs, tmp_path):
    assert call(*command(runs, tmp_path / "a")) == (0, "")
    assert len(rows(tmp_path / "a")) == 29 * 3
    published = tmp_path / "published.gin"
    published.write_text(PUBLISHED)
    preload = f"--preload_gin_config={runs / 'seed2' / files.OPERATIVE_CONFIG}"
    arguments = [f"logdir={tmp_path / 'b'}", f"--ckpt_start={runs / 'seed1'}", f"--ckpt_end={runs}/seed2/cp-0004.ckpt"]
    assert call(*arguments, preload, f"--gin_config={published}") == (0, "")
    beside = [f"--logdir={tmp_path / 'c'}", f"--ckpt_start={runs / 'seed1'}", f"--ckpt_end={runs / 'seed2'}"]
    assert call(*beside) == (0, "")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


@pytest.mark.parametrize(("value", "masks"), [("0", "start"), ("1", "end"), ("-1", "none")])
def test_the_published_choice_of_masks(value, masks, call, runs, tmp_path):
    few = "--gin_bindings=interpolate.n_interpolation=2"
    assert call(*command(runs, tmp_path / "out", few, f"--load_mask_from={value}")) == (0, "")
    assert summary_of(tmp_path / "out")["masks"] == masks


def test_the_seed_of_the_command_line(call, runs, tmp_path):
    bindings = ["interpolate.path='quadratic'", "interpolate.steps=3", "interpolate.n_interpolation=2"]
    more = [f"--gin_bindings={binding}" for binding in bindings]
    assert call(*command(runs, tmp_path / "out", *more, "--seed=5")) == (0, "")
    assert summary_of(tmp_path / "out")["settings"]["seed"] == 5


def test_of_several_workers_the_first_interpolates(call, runs, tmp_path, monkeypatch):
    def as_worker(index):
        cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}))
        out = tmp_path / str(index)
        assert call(*command(runs, out, "--strategy=multiworker")) == (0, "")
        return out

    assert not as_worker(1).exists()
    out = as_worker(0)
    monkeypatch.delenv("TF_CONFIG")
    assert call(*command(runs, tmp_path / "alone")) == (0, "")
    shared, alone = rows(out), rows(tmp_path / "alone")
    assert shared.keys() == alone.keys()
    for point, (loss, accuracy) in alone.items():
        assert shared[point] == (pytest.approx(loss, rel=1e-6), accuracy)


@pytest.mark.parametrize("folder", ["configs", "mlp_configs"])
def test_the_gin_file_is_that_of_the_paper(folder):
    (include,) = re.findall(r"^include '(.*)'$", (ROOT / folder / "interpolate.gin").read_text(), flags=re.MULTILINE)
    bound = [line for line in (ROOT / folder / include).read_text().splitlines() if not line.startswith("#")]
    assert [line.replace("0.20", "0.2").replace("1.20", "1.2") for line in PUBLISHED.splitlines()] == bound


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (["--ckpt_start="], 2, "--ckpt_start is missing; give a checkpoint"),
        (["--ckpt_end="], 2, "--ckpt_end is missing; give a checkpoint"),
        (
            ["--ckpt_start={runs}/seed1/ckpt-9"],
            1,
            "There is no checkpoint {runs}/seed1/ckpt-9; {runs}/seed1 has ckpt-0,",
        ),
        (["--ckpt_end={runs}/none"], 1, "There is no checkpoint {runs}/none; {runs} has none."),
        (["--operative_gin={runs}/none.gin"], 1, "There is no {runs}/none.gin; give the operative_config.gin of a run"),
        (["--preload_gin_config={runs}/seed1/operative_config.gin"], 2, "mean the same here; give one of them"),
        (["--load_mask_from=2"], 2, "value should be one of <0|1|-1>"),
        (["--gin_bindings=interpolate.points=3"], 2, "doesn't have a parameter named 'points'"),
        (["--gin_bindings=interpolate.masks='both'"], 2, "interpolate.masks='both' must be 'own' or"),
        (["--gin_bindings=mlp.hidden_sizes=(9,)"], 1, "has shape (784, 8), not (784, 9)"),
        (
            ["--gin_bindings=network.network_name='lenet5'"],
            1,
            "does not fit lenet5: model lenet5.conv1.kernel is missing",
        ),
        (["--gin_bindings=data.name='none'"], 1, "There is no data set 'none'"),
        (["--logdir={runs}/file/out"], 1, "cannot be written (Not a directory)"),
    ],
)
def test_what_cannot_be_done_is_one_line(change, status, message, call, runs, tmp_path):
    (runs / "file").touch()
    more = [argument.format(runs=runs) for argument in change]
    found, error = call(*command(runs, tmp_path / "out", *more))
    assert found == status and message.format(runs=runs) in error
    assert not (tmp_path / "out").exists()


def test_an_end_without_a_configuration_beside_it(call, runs, tmp_path):
    for name in ("ckpt-4.index", "ckpt-4.data-00000-of-00001"):
        shutil.copy(runs / "seed2" / name, tmp_path / name)
    status, error = call(f"--logdir={tmp_path}/out", f"--ckpt_start={runs}/seed1", f"--ckpt_end={tmp_path}/ckpt-4")
    assert status == 1
    assert (
        f"There is no {tmp_path}/operative_config.gin; give the operative_config.gin of a run as --operative" in error
    )


def test_help_answers_without_tensorflow():
    code = "import sys, interpolate; sys.exit(bool({'tensorflow', 'gin', 'keras', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    said = subprocess.run(
        [sys.executable, "interpolate.py", "--help"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert said.returncode == 0
    for flag in ("logdir", "ckpt_start", "ckpt_end", "operative_gin", "gin_config", "overwrite", "load_mask_from"):
        assert f"--{flag}" in said.stdout or f"--[no]{flag}" in said.stdout


@pytest.mark.slow
def test_a_killed_process_goes_on(runs, tmp_path):
    """SIGKILL at whatever point the process is."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    many = "--gin_bindings=interpolate.n_interpolation=141"
    base = [sys.executable, "interpolate.py"]
    subprocess.run([*base, *command(runs, whole, many)], cwd=ROOT, check=True, capture_output=True)
    process = subprocess.Popen([*base, *command(runs, killed, many)], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (killed / files.INTERPOLATION).exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(rows(killed)) <= 141 * 3
    subprocess.run([*base, *command(runs, killed, many)], cwd=ROOT, check=True, capture_output=True)
    assert contents(killed) == contents(whole)
