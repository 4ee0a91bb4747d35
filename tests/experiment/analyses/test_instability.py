"""Copies of a run: the same data order is the run itself, another one differs from the fork on; barriers by hand."""

import csv
import dataclasses
import json
import pathlib

import gin
import numpy as np
import pytest

from sparse_lib.experiment.analyses import instability, interpolation, solutions
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.config.analyses import InstabilitySettings, InterpolateSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import Interrupted, RunError, SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader, list_steps
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import build_evaluation_scope, build_model, build_run, plan_run
from sparse_lib.experiment.training.loop import Loop
from sparse_lib.experiment.training.steps import Steps
from sparse_lib.optimizer import SparseOptimizer
from tests.experiment import tiny
from tests.experiment.interruptions import asked_to_stop

LAST = 24
METHODS = {
    "dense": {},
    "rigl": {"masks": {"sparsity": 0.6}, "mask_updater": {"update_alg": "rigl", "update_freq": 5}},
    "set": {"masks": {"sparsity": 0.6}, "mask_updater": {"update_alg": "set", "update_freq": 5}},
}


def experiment(method="rigl", data_seed=None):
    training = {**tiny.TRAINING, "save_freq": 6, "log_freq": 5, "data_seed": data_seed}
    return tiny.experiment("mlp", training=training, **METHODS[method])


def config(method="rigl", data_seed=None):
    """A text with the one line that copies change."""
    made = dataclasses.replace(experiment(method), dataset=None)
    return f"# {made}\ntraining.data_seed = {data_seed}\n"


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Runs of 24 steps with checkpoints at 0, 6, 12, 18 and 24, made when they are asked for first."""
    made = {}

    def of(method="rigl"):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(method)
            run.train(plan_run(experiment(method)), made[method], config(method))
        return made[method]

    return of


@pytest.fixture(scope="module")
def measured(parents, tmp_path_factory):
    """The instability of a RigL run from the start, the middle and the end, in its directory."""
    directory = tmp_path_factory.mktemp("copies")
    return directory, measure(parents(), directory)


def measure(parent, directory, method="rigl", overwrite=False, **settings):
    settings = InstabilitySettings(**{"steps": (12, LAST, 0), "data_seeds": (1, 2), "points": 4, **settings})
    return instability.instability(
        experiment(method),
        settings,
        line=InterpolateSettings(),
        parent=parent,
        directory=directory,
        configs={seed: config(method, seed) for seed in settings.data_seeds},
        overwrite=overwrite,
    )


def rows(directory):
    with (directory / files.INSTABILITY).open() as file:
        return list(csv.DictReader(file))


def state(directory, step=LAST):
    """Everything a checkpoint holds of the training."""
    reader = Reader(directory / f"ckpt-{step}")
    groups = ("model", "masks", "explored", "logged", "optimizer")
    return {(g, name): reader.read(g, name) for g in groups for name in reader.names(g)}


def assert_same(one, other):
    assert set(one) == set(other)
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key], err_msg=str(key))


@pytest.mark.parametrize(
    ("method", "step"), [("dense", 0), ("rigl", 12), pytest.param("set", 6, marks=pytest.mark.slow)]
)
def test_the_data_order_of_the_parent_continues_it_bit_by_bit(method, step, parents, tmp_path):
    parent, seed = parents(method), experiment(method).training.seed
    instability.fork(parent, step, tmp_path, config(method, seed))
    run.train(plan_run(experiment(method, seed)), tmp_path, config(method, seed))
    assert_same(state(tmp_path), state(parent))
    for name in (files.METRICS, files.MASK_UPDATES):
        if (parent / name).exists() or (tmp_path / name).exists():
            assert (tmp_path / name).read_text() == (parent / name).read_text()
    results = [json.loads((d / files.RESULT).read_text()) for d in (tmp_path, parent)]
    for result in results:
        del result["wall_seconds"], result["steps_per_second"]
    assert results[0] == results[1]


def test_another_data_order_differs_from_the_fork_on_and_not_before(parents, tmp_path):
    parent = parents()
    text = config(data_seed=9)
    instability.fork(parent, 12, tmp_path, text)
    assert list_steps(tmp_path) == [0, 12]
    for step in (0, 12):
        assert_same(state(tmp_path, step), state(parent, step))
    run.train(plan_run(experiment(data_seed=9)), tmp_path, text)
    child, original = tiny.lines(tmp_path), tiny.lines(parent)
    assert [m["step"] for m in child] == [m["step"] for m in original] == [0, 5, 10, 15, 20, 24]
    assert child[:3] == original[:3] and child[3]["train_loss"] != original[3]["train_loss"]
    weights = [key for key in state(parent) if key[0] == "model"]
    assert any((state(parent)[key] != state(tmp_path)[key]).any() for key in weights)


def test_the_seed_of_the_data_changes_the_data_alone(monkeypatch):
    seen = {Steps: [], SparseOptimizer: []}
    for kind, seeds in seen.items():

        def made(self, *args, seeds=seeds, original=kind.__init__, **options):
            seeds.append(options["seed"])
            original(self, *args, **options)

        monkeypatch.setattr(kind, "__init__", made)
    one, other = build_run(experiment(), fresh=True), build_run(experiment(data_seed=7), fresh=True)
    assert seen == {Steps: [0, 7], SparseOptimizer: [0, 0]}
    assert_same(*({v.path: v.numpy() for v in built.model.variables} for built in (one, other)))
    assert_same(*(dict(enumerate(m.numpy() for m in built.optimizer.masks.values())) for built in (one, other)))


def test_copies_of_the_last_step_have_no_barrier(measured):
    directory, result = measured
    at_end = [row for row in rows(directory) if row["step"] == str(LAST)]
    assert len(at_end) == 3
    for row in at_end:
        for name in ("error_barrier", "error_above_line", "loss_barrier", "loss_above_line", "distance"):
            assert float(row[name]) == 0
    assert all(m["is_stable"] for m in result["instability"] if m["step"] == LAST)


def test_barriers_by_hand(measured):
    directory, _ = measured
    made = experiment()
    model = build_model(made)
    kernels = made.network.kernels(model)
    ends = [solutions.read(directory / "step-0" / f"data-seed-{seed}", model, kernels) for seed in (1, 2)]
    evaluate = solutions.PointEvaluator(model, made.dataset, build_evaluation_scope(made, model))

    def at(a):
        pairs = zip(ends[0].values, ends[1].values, strict=True)
        mixed = [((1 - a) * x.astype(np.float64) + a * y).astype(np.float32) for x, y in pairs]
        return evaluate(mixed, [])["test"]

    scores = [at(a) for a in (0, 1 / 3, 2 / 3, 1)]
    for name, values in (("error", [1 - s.accuracy for s in scores]), ("loss", [s.loss for s in scores])):
        (row,) = [row for row in rows(directory) if (row["step"], row["split"]) == ("0", "test")]
        assert float(row[f"{name}_barrier"]) == pytest.approx(max(values) - (values[0] + values[3]) / 2, abs=1e-6)
        line = np.linspace(values[0], values[3], 4)
        assert float(row[f"{name}_above_line"]) == pytest.approx(np.max(np.array(values) - line), abs=1e-6)
        assert float(row[f"first_{name}"]) == pytest.approx(values[0], abs=1e-9)
        assert float(row[f"second_{name}"]) == pytest.approx(values[3], abs=1e-9)
    assert float(row["distance"]) > 0


@pytest.mark.slow
def test_the_table_has_every_step_pair_and_split(parents, tmp_path):
    result = measure(parents(), tmp_path, steps=(18,), data_seeds=(1, 2, 5), points=2)
    found = [(r["step"], r["first_seed"], r["second_seed"], r["split"]) for r in rows(tmp_path)]
    splits = ("train", "validation", "test")
    assert found == [("18", a, b, s) for a, b in (("1", "2"), ("1", "5"), ("2", "5")) for s in splits]
    for at in result["instability"]:
        values = [float(r["loss_barrier"]) for r in rows(tmp_path) if r["split"] == at["split"]]
        assert at["pairs"] == 3
        assert at["loss_barrier"] == pytest.approx(np.mean(values))
        assert at["loss_barrier_std"] == pytest.approx(np.std(values))
    assert result == json.loads((tmp_path / files.INSTABILITY_SUMMARY).read_text())


def test_the_step_from_which_copies_are_stable():
    def at(step, is_stable):
        return {"step": step, "is_stable": is_stable}

    stable_from = instability.find_stable_step
    assert stable_from([at(0, False), at(5, True), at(9, False), at(12, True), at(20, True)]) == 12
    assert stable_from([at(0, True), at(5, True)]) == 0
    assert stable_from([at(0, True), at(5, False)]) is None


def test_what_is_done_is_not_done_again(measured, parents, monkeypatch):
    directory, first = measured
    monkeypatch.setattr(Loop, "run", lambda self: 1 / 0)
    monkeypatch.setattr(solutions.PointEvaluator, "__call__", lambda *a: 1 / 0)
    assert measure(parents(), directory) == first
    part = measure(parents(), directory, steps=(LAST,))
    assert {at["step"] for at in part["instability"]} == {LAST}
    assert measure(parents(), directory) == first


@pytest.mark.slow
def test_a_stopped_analysis_goes_on(measured, parents, tmp_path, monkeypatch):
    directory, _ = measured
    original, calls = Steps.run, []

    def stopped(self, *args, **options):
        calls.append(args)
        if len(calls) == 3:
            asked_to_stop()
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "run", stopped)
        with pytest.raises(Interrupted):
            measure(parents(), tmp_path, steps=(12,))
    measure(parents(), tmp_path, steps=(12,))
    assert rows(tmp_path) == [row for row in rows(directory) if row["step"] == "12"]


def test_a_fork_that_was_killed_is_made_again(parents, tmp_path, monkeypatch):
    text = config(data_seed=1)
    original, copied = instability.shutil.copyfile, []

    def deadly(source, target):
        copied.append(source)
        if len(copied) == 4:
            raise ZeroDivisionError
        return original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(instability.shutil, "copyfile", deadly)
        with pytest.raises(ZeroDivisionError):
            instability.fork(parents(), 12, tmp_path, text)
    assert list_steps(tmp_path) == [0]
    instability.fork(parents(), 12, tmp_path, text)
    assert list_steps(tmp_path) == [0, 12]
    assert_same(state(tmp_path, 12), state(parents(), 12))


def test_a_fork_that_is_there_stays(parents, tmp_path):
    text = config(data_seed=1)
    instability.fork(parents(), 6, tmp_path, text)
    run.train(plan_run(experiment(data_seed=1)), tmp_path, text)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("ckpt-*")}
    instability.fork(parents(), 6, tmp_path, text)
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("ckpt-*")}
    with pytest.raises(RunError, match="another configuration"):
        instability.fork(parents(), 6, tmp_path, config(data_seed=2))


def test_overwriting_trains_again(parents, tmp_path, monkeypatch):
    trained = []
    original = Loop.run
    monkeypatch.setattr(Loop, "run", lambda self: trained.append(self) or original(self))
    first = measure(parents(), tmp_path, steps=(LAST,))
    assert measure(parents(), tmp_path, steps=(LAST,)) == first and len(trained) == 2
    assert measure(parents(), tmp_path, steps=(LAST,), overwrite=True) == first and len(trained) == 4


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_one_line_and_the_rest_is_kept(parents, tmp_path, monkeypatch):
    original = interpolation.interpolate

    def broken(experiment, settings, *, directory, **ends):
        summary = original(experiment, settings, directory=directory, **ends)
        if directory.parent.name == "step-24":
            raise RunError("The loss is not finite")
        return summary

    monkeypatch.setattr(interpolation, "interpolate", broken)
    with pytest.raises(RunError, match="not finite"):
        measure(parents(), tmp_path, steps=(18, LAST))
    assert {row["step"] for row in rows(tmp_path)} == {"18"}


def test_what_cannot_be_copied(parents, tmp_path):
    with pytest.raises(RunError, match=r"There is no checkpoint .*ckpt-7; .* has ckpt-0, ckpt-6"):
        measure(parents(), tmp_path, steps=(6, 7))
    assert not any(tmp_path.iterdir())
    with pytest.raises(RunError, match="has no checkpoints"):
        measure(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ()}, "must name checkpoints"),
        ({"steps": (0, -5)}, "must be a list in which each is at least 0, or None"),
        ({"data_seeds": (1,)}, "two or more different seeds"),
        ({"data_seeds": (1, 1)}, "two or more different seeds"),
        ({"data_seeds": (1, -1)}, "must be a list in which each is at least 0"),
        ({"points": 1}, "must be at least 2"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(SettingError, match=message):
        InstabilitySettings(**settings)


BINDINGS = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(8,)",
    "training.total_steps=6",
    "training.save_freq=3",
    "training.log_freq=3",
    "training.jit_compile=False",
]


@pytest.mark.slow
def test_the_command_line(call, train_by_command, tmp_path):
    parent, out = tmp_path / "parent", tmp_path / "out"
    train_by_command(parent, BINDINGS, seed=4)
    few = [f"--gin_bindings=instability.{said}" for said in ("steps=(3,)", "data_seeds=(1,4)", "points=3")]
    assert call("--mode=instability", f"--logdir={out}", f"--run={parent}", *few) == (0, "")
    assert len(rows(out)) == 3
    # Seed 4 is that of the run: this copy is its own continuation.
    assert_same(state(out / "step-3" / "data-seed-4", 6), state(parent, 6))
    ours, theirs = ((d / files.OPERATIVE_CONFIG).read_text() for d in (out / "step-3" / "data-seed-4", parent))
    assert ours == theirs.replace("training.data_seed = None", "training.data_seed = 4")
    assert call("--mode=instability", f"--logdir={out}") == (
        2,
        "--run is missing; give the directory of the run to copy.",
    )
    status, said = call("--mode=instability", f"--logdir={out}", f"--run={parent}", "--seed=1")
    assert status == 2 and "--seed belongs to the run that is copied" in said


@pytest.mark.parametrize("bound", [None, 5])
def test_configurations_of_copies_differ_in_one_line(bound):
    gin.clear_config()
    gin_files.parse([], [*BINDINGS, *([] if bound is None else [f"training.data_seed={bound}"])])
    Experiment.from_gin()
    settings = gin_files.read_unrecorded(InstabilitySettings)
    original = gin_files.operative()
    assert original.count(f"\ntraining.data_seed = {bound}\n") == 1 and "instability" not in original
    assert gin_files.operative_by_data_seed(settings.data_seeds) == {
        seed: original.replace(f"training.data_seed = {bound}", f"training.data_seed = {seed}") for seed in (1, 2, 3)
    }
    assert gin_files.operative() == original and gin_names.training().data_seed == bound
    gin.clear_config()


@pytest.mark.parametrize("folder", ["configs", "mlp_configs"])
def test_the_gin_file_asks_for_checkpoints_that_runs_save(folder):
    root = pathlib.Path(__file__).parents[3] / folder
    gin.clear_config()
    gin_files.parse([str(root / "base.gin"), str(root / "instability.gin")], [])
    asked, training = gin_names.instability(), gin_names.training()
    assert all(s % training.save_freq == 0 or s == training.total_steps for s in asked.steps)
    assert asked.points == 30 and len(asked.data_seeds) == 3
    gin.clear_config()
