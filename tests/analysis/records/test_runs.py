"""Frames of run directories."""

import json
import os
import pathlib

import gin
import matplotlib.pyplot as plt
import numpy as np
import pytest

from analysis.records import runs as frames
from analysis.records.runs import IDENTITY, load_runs
from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import plan_run
from tests.documents import ROOT, run_fragments

TINY = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(16, 8)",
    "training.total_steps=20",
    "training.log_freq=10",
    "training.batch_size=16",
    "masks.sparsity=0.8",
    "mask_updater.update_alg='rigl'",
    "mask_updater.update_freq=10",
    "optimizer.name='momentum'",
]


def top(directory: pathlib.Path) -> pathlib.Path:
    return next(parent for parent in directory.parents if parent.name == "runs")


def test_what_train_writes(tmp_path):
    gin.clear_config()
    try:
        gin_files.parse([], TINY)
        run.train(plan_run(Experiment.from_gin()), tmp_path / "rigl", gin_files.operative())
    finally:
        gin.clear_config()
    loaded = load_runs(tmp_path)
    row = loaded.runs.iloc[0]
    assert (row["run"], row["method"], row["state"], row["step"]) == ("rigl", "rigl.erk", "finished", 20)
    assert list(loaded.metrics["step"]) == [0, 10, 20]
    assert not [c for c in loaded.metrics.columns if "/" in c]
    per_layer = loaded.layers[(loaded.layers["metric"] == "sparsity") & (loaded.layers["step"] == 20)]
    assert list(per_layer["layer"]) == ["dense1/kernel", "dense2/kernel", "dense3/kernel"]
    assert loaded.mask_updates["gradient_norm_change"].notna().all()
    assert loaded.results["test_accuracy"].between(0, 1).all()
    assert loaded.configs.loc["rigl", "masks.sparsity"] == 0.8
    for frame in (loaded.runs, loaded.metrics, loaded.layers, loaded.mask_updates, loaded.results):
        assert list(frame.columns[: len(IDENTITY)]) == list(IDENTITY)


def test_values_per_layer_are_melted(write_run):
    directory = write_run("rigl_plus", 0, gradient_norm=[3.0, 4.0], changes=[0.5])
    loaded = load_runs(top(directory))
    kernel = loaded.layers[loaded.layers["metric"] == "gradient_norm"]
    assert list(zip(kernel["step"], kernel["layer"], kernel["value"], strict=True)) == [
        (0, "dense1/kernel", 1.5),
        (5, "dense1/kernel", 2.0),
    ]
    assert list(loaded.mask_updates["gradient_norm_change"]) == [0.5]


def test_parents_and_the_sparsity_of_their_masks(write_run):
    for mode in ("prune", "lottery", "dense"):
        directory = write_run(mode, 3)
    loaded = load_runs(top(directory)).runs.set_index("run")
    assert loaded.loc["3/lottery", "parent"] == "3/prune"
    assert loaded.loc["3/prune", "parent"] is None
    assert loaded["target_sparsity"].to_dict() == {"3/dense": 0.0, "3/lottery": 0.9, "3/prune": 0.9}


def test_levels_of_iterative_pruning_have_a_sparsity_of_their_own(write_run):
    write_run("dense", 0)
    directory = write_run("lottery", 0, pruned="{seed}/dense", bindings=["iterative_pruning.fraction = 0.2"])
    loaded = load_runs(top(directory)).runs.set_index("run")
    assert loaded["target_sparsity"].to_dict() == {"0/dense": 0.0, "0/lottery": 0.9}
    assert loaded.loc["0/lottery", "parent"] == "0/dense"


def test_parents_of_runs_that_have_been_moved(write_run, tmp_path):
    for seed in (0, 1):
        for mode in ("prune", "lottery"):
            directory = write_run(mode, seed)
    os.rename(top(directory), tmp_path / "elsewhere")
    loaded = load_runs(tmp_path / "elsewhere").runs.set_index("run")
    assert loaded.loc["1/lottery", "parent"] == "1/prune"


def test_a_lost_parent_leaves_the_measured_sparsity(write_run):
    loaded = load_runs(top(write_run("lottery", 0))).runs.iloc[0]
    assert loaded["parent"] is None
    assert loaded["target_sparsity"] == 0.9


def test_unfinished_and_empty_runs(write_run):
    unfinished = write_run("dense", 0, finished=False)
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "gradient')
    empty = write_run("dense", 1, finished=False)
    (empty / "metrics.jsonl").unlink()
    loaded = load_runs(top(empty))
    assert loaded.runs["state"].to_dict() == {0: "unfinished", 1: "empty"}
    assert loaded.runs["step"].to_dict() == {0: 10, 1: 0}
    assert loaded.results.empty
    assert set(loaded.metrics["run"]) == {"0/dense"}


def test_how_runs_ended(write_run):
    write_run("scratch", 0, outcome="at_chance", left_plateau_at=None)
    write_run("rigl_plus", 0, outcome="diverged", left_plateau_at=10)
    older = write_run("dense", 0)
    (older / "result.json").write_text('{"test_accuracy": 0.9}')
    loaded = load_runs(top(older))
    ended = loaded.runs.set_index("run")
    assert ended["outcome"].to_dict() == {"0/dense": None, "0/rigl_plus": "diverged", "0/scratch": "at_chance"}
    assert ended["state"].to_dict() == {"0/dense": "finished", "0/rigl_plus": "diverged", "0/scratch": "finished"}
    assert list(ended["left_plateau_at"].fillna(-1)) == [-1, 10, -1]
    assert loaded.results.set_index("run")["test_accuracy"].isna().to_dict()["0/rigl_plus"]


def test_damaged_files_are_told_and_left_out(write_run):
    directory = write_run("dense", 0)
    (directory / "result.json").write_text("{")
    loaded = load_runs(top(directory))
    assert loaded.runs["state"].item() == "unfinished"
    assert str(directory) in loaded.notes[0]


def test_null_is_nan(write_run):
    directory = write_run("dense", 0)
    (directory / "metrics.jsonl").write_text(json.dumps({"step": 0, "gradient_norm": None, "test_loss": 1.0}))
    metrics = load_runs(top(directory)).metrics
    assert metrics["gradient_norm"].dtype == np.float64
    assert np.isnan(metrics["gradient_norm"].item())


def test_an_empty_directory_has_frames_without_rows(tmp_path):
    loaded = load_runs(tmp_path)
    assert loaded.runs.empty
    assert loaded.metrics.empty
    assert list(loaded.cases()) == []
    assert {"step", "metric", "layer", "value"} <= set(loaded.layers.columns)


def test_a_missing_directory_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="There is no directory .*nowhere; name one that holds runs"):
        load_runs(tmp_path / "nowhere")


def test_a_run_is_read_once(write_run):
    directory = write_run("dense", 0)
    assert len(load_runs([top(directory), directory]).runs) == 1


def test_copies_of_an_instability_analysis_are_no_runs(write_run):
    write_run("dense", 0)
    directory = write_run("dense", 0, name="copies/step-5/data-seed-1")
    assert list(load_runs(top(directory)).runs["run"]) == ["0/dense"]


def test_other_settings_make_a_variant(write_run):
    for seed in (0, 1, 2):
        write_run("rigl_plus", seed, bindings=["mask_updater.update_freq = 100", "training.log_freq = 5"])
    directory = write_run(
        "rigl_plus", 3, bindings=["mask_updater.update_freq = 500", "training.log_freq = 7"], name="odd"
    )
    labels = load_runs(top(directory)).runs.set_index("run")["label"]
    assert labels["odd"] == "RigL+, update_freq=500"
    assert set(labels.drop("odd")) == {"RigL+"}


def test_a_setting_that_an_older_version_did_not_have_makes_no_variant(write_run):
    write_run("rigl_plus", 0)
    directory = write_run("rigl_plus", 1, bindings=["mask_updater.new_setting = None"])
    assert set(load_runs(top(directory)).runs["label"]) == {"RigL+"}


def test_cases_hold_one_sparsity_and_the_dense_runs(write_run):
    for mode in ("dense", "prune", "lottery"):
        write_run(mode, 0)
    directory = write_run("prune", 0, name="other", bindings=["pruning.final_sparsity = 0.5"])
    cases = {sparsity: set(case.runs["run"]) for _, sparsity, case in load_runs(top(directory)).cases()}
    assert cases == {0.5: {"0/dense", "other"}, 0.9: {"0/dense", "0/prune", "0/lottery"}}


def test_every_value_of_many_layers_is_loaded(write_run):
    for seed in range(10):
        directory = write_run("rigl_plus", seed, gradient_norm=[1.0] * 50, changes=[0.1] * 50)
    path = directory / "metrics.jsonl"
    wide = [
        {**json.loads(line), **{f"extra{i}/layer": 0.5 for i in range(60)}} for line in path.read_text().splitlines()
    ]
    for other in top(directory).rglob("metrics.jsonl"):
        other.write_text("".join(json.dumps(record) + "\n" for record in wide))
    loaded = load_runs(top(directory))
    assert len(loaded.layers) == 10 * 50 * 63


def test_find_runs_leaves_out_parts_of_a_run(write_run):
    directory = write_run("dense", 0)
    (directory / "hessian").mkdir()
    (directory / "hessian" / "operative_config.gin").write_text("")
    assert list(frames.find_runs(directory)) == [directory]


def test_fragments_of_the_page_run(write_run, tmp_path, monkeypatch):
    for seed in (0, 1):
        write_run("prune", seed, name=f"study/{seed}/prune")
        write_run("lottery", seed, name=f"study/{seed}/lottery", pruned="study/{seed}/prune")
    monkeypatch.chdir(tmp_path)
    names = {}
    run_fragments(ROOT / "docs" / "analysis.md", names)
    assert len(names["runs"].runs) == 4
    plt.close("all")


def test_a_damaged_result_is_noted_and_the_rest_of_the_run_is_read(write_run):
    write_run("dense", 0)
    directory = write_run("lottery", 0)
    (directory / "result.json").write_text("{")
    loaded = load_runs(top(directory))
    assert loaded.runs.set_index("run")["method"].to_dict() == {"0/dense": "dense", "0/lottery": "lottery"}
    assert list(loaded.results["run"]) == ["0/dense"]
    assert len(loaded.notes) == 1 and str(directory) in loaded.notes[0]
