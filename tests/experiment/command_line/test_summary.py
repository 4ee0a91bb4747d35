"""What a start, an end and a dry run say, against what the run is."""

import json
import shlex

import gin
import pytest

from sparse_lib.experiment.command_line import commands, summary
from sparse_lib.experiment.command_line.options import Options
from sparse_lib.experiment.command_line.shell import join_words
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.training.build import plan_run
from tests.experiment import tiny

BINDINGS = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(8,)",
    "training.total_steps=40",
    "training.batch_size=16",
    "training.jit_compile=False",
    "masks.sparsity=0.5",
    "masks.distribution='uniform'",
    "mask_updater.update_alg='rigl'",
    "mask_updater.update_freq=10",
]


@pytest.fixture(autouse=True)
def clear_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def test_a_dry_run_shows_the_run_and_leaves_nothing(tmp_path, capsys):
    directory = tmp_path / "new" / "run"
    commands.plan_training(Options(gin_bindings=BINDINGS), directory, overwrite=False)
    shown = capsys.readouterr().out
    parts = dict(part.split("\n", 1) for part in shown.removeprefix("== ").split("\n== "))
    assert "mlp.hidden_sizes = (8,)\n" in parts["Configuration"]
    assert [line.split() for line in parts["Network"].splitlines()][-2:] == [
        ["dense1", "Dense", "8", "6,280"],
        ["dense2", "Dense", "10", "90"],
    ]
    # Half of 784 x 8 and of 8 x 10 weights, and 18 biases.
    assert parts["Masks before the first step"].split()[-4:] == ["total", "3,176", "6,352", "0.5000"]
    assert "3,194 active of 6,370" in parts["Cost under these masks"]
    # Each active weight is a multiplication and, with the bias, an addition; eight activations.
    assert f"{2 * 3176 + 8:,} FLOPs per example" in parts["Cost under these masks"]
    assert parts["Mask updates"].startswith("RigL: 3, from step 10 to 30\n")
    start = parts["Mask updates"].splitlines()[-3:]
    assert start[0] == "Train: rigl.uniform, MLP on digits, sparsity 0.5, 40 steps of 16 examples, seed 0"
    assert start[2] == f"In:    {directory}, a new run"
    assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path, capsys):
    (tmp_path / files.OPERATIVE_CONFIG).write_text("training.batch_size = 7\n")
    with pytest.raises(RunError, match=r"training\.batch_size is 7 there and 16 here"):
        commands.plan_training(Options(gin_bindings=BINDINGS), tmp_path, overwrite=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("present", "overwrite", "said"),
    [
        ([], False, "a new run"),
        ([files.OPERATIVE_CONFIG], False, "from the start, as no checkpoint is there"),
        ([files.OPERATIVE_CONFIG, "ckpt-0.index", "ckpt-12.index"], False, "from step 12 on"),
        ([files.OPERATIVE_CONFIG, "ckpt-12.index", files.RESULT], False, "which is finished"),
        ([files.OPERATIVE_CONFIG, "ckpt-12.index"], True, "in place of the run there"),
    ],
)
def test_a_start_says_whether_it_goes_on(present, overwrite, said, tmp_path):
    for name in present:
        (tmp_path / name).touch()
    experiment = tiny.experiment("mlp", network={"mask_init_path": "runs/prune", "network_name": "mlp"})
    lines = summary.format_start(experiment, plan_run(experiment).description, tmp_path, overwrite=overwrite)
    assert lines.splitlines()[0] == "Train: scratch, MLP on tiny, masks of runs/prune, 24 steps of 16 examples, seed 0"
    assert lines.splitlines()[2] == f"In:    {tmp_path}, {said}"


@pytest.mark.parametrize(
    ("network", "files_read"),
    [
        ("lenet5", ["configs/lottery.gin"]),
        ("mlp", ["mlp_configs/lottery.gin"]),
        ("resnet20", ["configs/networks/resnet20.gin", "configs/methods/lottery.gin"]),
    ],
)
def test_after_pruning_comes_the_ticket(network, files_read, tmp_path):
    experiment = tiny.experiment("mlp", pruning={"mode": "prune"})
    described = plan_run(experiment).description._replace(network=network)
    names = ("test_accuracy", "sparsity", "active_parameters", "total_parameters", "steps_per_second")
    result = json.loads(json.dumps(dict.fromkeys(names, 1)))
    last = summary.format_end(described, tmp_path, result).splitlines()[-1]
    assert shlex.split(last) == [
        *("Next:", "python", "train.py", f"--logdir={tmp_path}_ticket"),
        *(f"--gin_config={name}" for name in files_read),
        *(f"--gin_bindings=PRUNED_RUN='{tmp_path}'", f"--gin_bindings=PRUNED_START='{tmp_path}/ckpt-0'"),
    ]


@pytest.mark.parametrize(
    "words",
    [["a", "b c"], ["--x=y='z'"], ["--x=$HOME 'a'"], ["--x='a\"b'"], ["'"], ["--gin_bindings=a='!b'"], ["--x=a\\'"]],
)
def test_a_shell_reads_the_words_back(words):
    assert shlex.split(join_words(words)) == words
