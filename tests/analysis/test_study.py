"""The study: which stages it has, what they wait for, and that a small one runs from end to end."""

import graphlib
import pathlib
import shlex

import gin
import pytest

from analysis import study
from sparse_lib.experiment.config import gin_files, gin_names

PLAN = study.Plan(pathlib.Path("/somewhere/study"), ("lenet5", "mlp"), "digits_large", 3, 2000)
STAGES = study.make_stages(PLAN)


def flags(stage) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in stage.command[1:]:
        name, _, value = word.removeprefix("--").partition("=")
        found.setdefault(name, []).append(value)
    return found


def bound(stage):
    """Calls the settings that a stage's command line describes."""
    gin.clear_config()
    try:
        said = flags(stage)
        gin_files.parse([str(study.ROOT / path) for path in said["gin_config"]], said.get("gin_bindings", []))
        return gin_names.training(), gin_names.network(), gin_names.pruning(), gin_names.hessian()
    finally:
        gin.clear_config()


def test_stages_wait_for_stages_that_come_before_them():
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    order = list(graphlib.TopologicalSorter({stage.name: stage.after for stage in STAGES}).static_order())
    assert sorted(order) == sorted(names)
    for place, stage in enumerate(STAGES):
        assert set(stage.after) <= set(names[:place])
    assert set(STAGES[-1].after) == set(names[:-1])


def test_no_two_stages_write_one_directory():
    places = [flags(stage)["logdir"][0] for stage in STAGES if stage.command[0] in ("train.py", "interpolate.py")]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("stage", [s for s in STAGES if s.command[0] == "train.py"], ids=lambda stage: stage.name)
def test_training_is_what_its_name_says(stage):
    training, network, pruning, _ = bound(stage)
    folder, _, name = stage.name.partition("/")
    assert training.total_steps == PLAN.steps and network.network_name == folder
    method = name.rpartition("_")[0]
    masks = None if method in study.APART else f"/somewhere/study/{folder}/prune_0"
    assert network.mask_init_path == masks
    assert stage.after == ((f"{folder}/prune_0",) if masks else ())
    if method == "prune":
        assert (pruning.begin_step, pruning.end_step) == (512, 1195)
    assert (network.weight_init_method == "unit_scaled") == ("plus" in name)
    assert bool(training.save_update_pairs) == (name.removesuffix("_1") in study.SPECTRA)


@pytest.mark.parametrize("stage", [s for s in STAGES if s.command[0] == "hessian.py"], ids=lambda stage: stage.name)
def test_spectra_are_asked_for_on_both_sides_of_mask_updates(stage):
    wanted = list(bound(stage)[3].ckpt_ids)
    pairs, end = wanted[:-1], wanted[-1]
    assert end == PLAN.steps
    for before, after in zip(pairs[::2], pairs[1::2], strict=True):
        assert after == before - 1 and -after % 100 == 0 and -after < PLAN.steps


def test_pruned_networks_are_crossed_with_seeds():
    plan = study.Plan(pathlib.Path("/somewhere/study"), ("mlp",), "digits", 2, 2000, 3)
    crossed = [stage for stage in study.make_stages(plan) if stage.name.startswith("mlp/scratch_plus_")]
    found = {(stage.after[0], flags(stage)["seed"][0]) for stage in crossed}
    pruned = ("mlp/prune_0", "mlp/prune_1000", "mlp/prune_2000")
    assert found == {(network, seed) for network in pruned for seed in ("1", "2")} and len(crossed) == 6
    alone = {stage.name for stage in study.make_stages(plan._replace(pruned_networks=1))}
    assert alone < {stage.name for stage in study.make_stages(plan)}


def test_command_line(capsys, tmp_path):
    assert study.main(["--list", "--quick", f"--out={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(study.make_stages(PLAN._replace(networks=("lenet5",), seeds=2)))
    assert all(line.startswith("python ") and (study.ROOT / shlex.split(line)[1]).exists() for line in lines[:-1])
    assert not list(tmp_path.iterdir())
    for wrong in ("--seeds=0", "--steps=3", "--network=resnet"):
        with pytest.raises(SystemExit) as stopped:
            study.main([wrong])
        assert stopped.value.code == 2


@pytest.mark.slow
def test_a_small_study_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setattr(
        study, "METHODS", {n: study.METHODS[n] for n in ("lottery", "scratch", "scratch_plus", "rigl_plus")}
    )
    monkeypatch.setattr(study, "SPECTRA", ("rigl_plus",))
    words = [f"--out={tmp_path}", "--seeds=1", "--steps=240"]
    assert study.main(words) == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf8")
    assert "Lottery" in page and "<svg" in page
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert study.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == times
