"""The graph of a study of tickets: what each run takes its masks and weights from, and that it can be killed."""

import pathlib
import re

import gin
import pytest

from analysis.tickets import __main__ as command
from analysis.tickets import graph, levels
from analysis.tickets.branches import BRANCHES, find_branch
from analysis.tickets.plan import Plan, read_steps
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.jobs import series
from sparse_lib.experiment.jobs.protocol import ROOT
from sparse_lib.experiment.runtime.errors import RunError

OUT = pathlib.Path("/somewhere/tickets")
ALL = ("reinit", "shuffle", "random", "magnitude", "rewind:100", "signs_constant", "signs_random", "signs_flip:0.1")
ALL += ("inverted", "supermask", "prune_restart")
PLAN = Plan(OUT, levels=3, seeds=2, steps=1000, rewind=40, branches=ALL)
RUNS = levels.make_runs(PLAN)


def find(plan, level, branch="", seed=1):
    (run,) = [r for r in levels.make_runs(plan) if (r.seed, r.level, r.branch) == (seed, level, branch)]
    return run


def bound(run):
    """Calls the settings that a run's command line describes."""
    gin.clear_config()
    try:
        said = [word.removeprefix("--").split("=", 1) for word in run.command[1:]]
        paths = [str(ROOT / value) for name, value in said if name == "gin_config"]
        gin_files.parse(paths, [value for name, value in said if name == "gin_bindings"])
        return gin_names.training(), gin_names.network(), gin_names.iterative_pruning()
    finally:
        gin.clear_config()


def test_every_branch_is_tried():
    assert {name.partition(":")[0] for name in ALL} == set(BRANCHES)
    assert len(RUNS) == 2 * (4 + 3 * len(ALL))
    assert len({run.directory for run in RUNS}) == len(RUNS)


@pytest.mark.parametrize(
    ("rewind", "weights"),
    [(0, "level_00/ckpt-0"), (40, "level_00/ckpt-40"), ("lr", "level_02")],
)
def test_a_level_takes_masks_of_the_one_before_and_weights_by_rewinding(rewind, weights):
    training, network, pruning = bound(find(PLAN._replace(rewind=rewind), 3))
    assert network.mask_init_path == str(OUT / "seed_1" / "level_02")
    assert network.weight_init_path == str(OUT / "seed_1" / weights)
    assert (pruning.fraction, pruning.scope, pruning.output_rate) == (0.2, "layer", 0.5)
    assert training.total_steps == 1000 and training.keep_checkpoints == 1


def test_the_dense_run_keeps_the_checkpoints_that_others_start_from():
    training, network, pruning = bound(find(PLAN, 0))
    assert list(training.save_steps) == [40, 100] and not network.mask_init_path and not pruning.fraction


# Masks of, weights of, and one setting of each branch at level 2.
@pytest.mark.parametrize(
    ("branch", "masks", "weights", "setting"),
    [
        ("reinit", "level_01", None, {}),
        ("shuffle", "level_01", "level_00/ckpt-40", {"shuffle_mask": True}),
        ("random", "level_01", None, {"shuffle_mask": True}),
        ("magnitude", "level_00/ckpt-0", "level_00/ckpt-0", {"rounds": 2}),
        ("rewind:100", "level_01", "level_00/ckpt-100", {}),
        ("signs_constant", "level_01", "level_00/ckpt-40", {"weight_init_signs": "constant"}),
        ("signs_random", "level_01", "level_00/ckpt-40", {"weight_init_signs": "random"}),
        ("signs_flip:0.1", "level_01", "level_00/ckpt-40", {"weight_init_signs": "flip:0.1"}),
        ("inverted", "level_01", "level_00/ckpt-40", {"invert_mask": True}),
        ("supermask", "level_01", "level_00/ckpt-0", {"total_steps": 1}),
        ("prune_restart", "level_01", "level_01", {}),
    ],
)
def test_branches(branch, masks, weights, setting):
    training, network, pruning = bound(find(PLAN, 2, branch))
    top = OUT / "seed_1"
    assert network.mask_init_path == str(top / masks)
    assert network.weight_init_path == (None if weights is None else str(top / weights))
    found = {**vars(pruning), **vars(network), **vars(training)}
    usual = {"shuffle_mask": False, "rounds": 1, "weight_init_signs": None, "invert_mask": False, "total_steps": 1000}
    assert {name: found[name] for name in usual} == {**usual, **setting}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_stages_cover_all_runs_and_wait_for_what_they_read(size):
    stages, done, seen = graph.make_stages(PLAN._replace(runs_in_process=size)), {"": set()}, []
    for stage in stages:
        words = list(stage.command[1 if stage.command[0] == "train.py" else 2 :])
        have = {run for name in stage.after for run in done[name]}
        own = []
        for part in series.split_arguments(words):
            text = " ".join(part)
            (directory,) = re.findall(r"--logdir=(\S+)", text)
            sources = set(re.findall(r"PRUNED_\w+='(.+?)(?:/ckpt-\d+)?'", text))
            assert sources <= have | set(own), stage.name
            own.append(directory)
        done[stage.name] = have | set(own)
        seen += own
    assert sorted(seen) == sorted(str(run.directory) for run in RUNS)
    assert max(len(series.split_arguments(stage.command)) for stage in stages) <= size


def test_the_landscape_joins_levels_and_copies_them():
    plan = PLAN._replace(landscape=("barriers", "instability"), branch_levels=(2,), seeds=1, branches=("rewind:100",))
    stages = {stage.name: stage for stage in graph.make_stages(plan) if stage.command[0] == "interpolate.py"}
    lines = [f"seed_1/barriers/level_{level:02d}" for level in (1, 2, 3)]
    assert list(stages) == [*lines, "seed_1/instability/level_02", "seed_1/instability/level_02_rewind_100"]
    line, copies = stages["seed_1/barriers/level_02"], stages["seed_1/instability/level_02_rewind_100"]
    top = OUT / "seed_1"
    assert {f"--ckpt_start={top / 'level_01'}", f"--ckpt_end={top / 'level_02'}"} <= set(line.command)
    assert {"--mode=instability", f"--run={top / 'level_02_rewind_100'}"} <= set(copies.command)
    assert line.after == ("seed_1/level_00-level_03",) and copies.after == ("seed_1/level_02_rewind_100",)


def test_lengths_are_those_of_the_files():
    assert read_steps(PLAN.gin_files) == 11_719
    assert read_steps([pathlib.Path("configs/protocols/mnist_sparse.gin")]) == 11_719
    # The lottery-ticket paper's 50,000 steps, which the network's file brings.
    assert Plan(OUT, network="lenet300").gin_files == [pathlib.Path("configs/networks/lenet300.gin")]
    assert read_steps(Plan(OUT, network="lenet300").gin_files) == 50_000
    assert Plan(OUT).gin_files[-1] == pathlib.Path("configs/protocols/mnist.gin")
    assert read_steps([pathlib.Path("configs/networks/resnet20.gin")]) == 64_000
    assert read_steps([pathlib.Path("configs/networks/mlp.gin")]) == 5_000
    with pytest.raises(RunError, match="lenet5, mlp"):
        read_steps([pathlib.Path("configs/networks/lenet.gin")])


@pytest.mark.parametrize("text", ["reinits", "reinit:3", "rewind", "rewind:x", "signs_flip", "signs_flip:2"])
def test_wrong_branches_are_told(text):
    with pytest.raises(RunError, match=re.escape(text.partition(":")[0])):
        find_branch(text)


WRONG = ["--levels=-1", "--rewind=late", "--rewind=99999", "--branches=no", "--branch_levels=11", "--fraction=0"]
WRONG += ["--landscape=no", "--network=no", "--runs_in_process=0", "--branches=rewind:99999"]


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_command_line_is_told_in_one_line(word, tmp_path, capsys):
    assert command.main([f"--out={tmp_path}", word]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_list_prints_commands_of_train(tmp_path, capsys):
    assert command.main(["--list", "--levels=2", "--seeds=1", "--branches=reinit", f"--out={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(line.startswith("python train.py --logdir=") for line in lines)
    assert not list(tmp_path.iterdir())
