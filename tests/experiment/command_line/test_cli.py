"""The command line of train.py: what it understands, and one clear line for what it cannot do."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import gin
import pytest
from absl import flags
from absl.testing import flagsaver

import train
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.command_line import cli, commands
from sparse_lib.experiment.command_line.options import Options
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import Interrupted, RunError, SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import list_steps

ROOT = pathlib.Path(__file__).parents[3]
LIBRARY = ROOT / "sparse_lib"
TINY = {
    "network.network_name": "'mlp'",
    "mlp.hidden_sizes": "(8,)",
    "training.total_steps": "4",
    "training.batch_size": "16",
    "training.jit_compile": "False",
}


@pytest.fixture(autouse=True, scope="module")
def modes_of_training():
    """Other tests of the process may have defined those of interpolate.py."""
    train.define_mode()


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command line in this process and returns its exit status, standard output and error line."""

    def run_main(*arguments, **bindings):
        chosen = {**TINY, **{name.replace("__", "."): value for name, value in bindings.items()}}
        flags_of_bindings = [f"--gin_bindings={k}={v}" for k, v in chosen.items()]
        monkeypatch.setattr(sys, "argv", ["train.py", *flags_of_bindings, *arguments])
        gin.clear_config()
        capsys.readouterr()
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
            cli.run(train.main)
        said = capsys.readouterr()
        errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (caught.value.code in (1, 2)) and "Traceback" not in said.err
        return caught.value.code, said.out, errors[0].removeprefix("error: ") if errors else ""

    yield run_main
    gin.clear_config()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny run of four steps, to be copied."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    gin.clear_config()
    commands.train(Options(gin_bindings=[f"{k}={v}" for k, v in TINY.items()]), directory, overwrite=False)
    gin.clear_config()
    return directory


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_help_answers_without_tensorflow():
    code = "import sys, train; sys.exit(bool({'tensorflow', 'gin', 'keras', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    said = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert said.returncode == 0
    for flag in ("logdir", "seed", "gin_config", "gin_bindings", "preload_gin_config", "mode", "strategy", "overwrite"):
        assert f"--{flag}" in said.stdout or f"--[no]{flag}" in said.stdout
    for path in (ROOT / "configs").rglob("*.gin"):
        if path.stem not in ("base", "hessian", "instability", "interpolate", "surface"):
            assert re.search(rf"\b{path.stem}\b", said.stdout), path
    assert "  set_from_prune        SET from the masks of a pruned run.\n" in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 120


def test_a_process_says_what_it_did_and_nothing_else(tmp_path):
    arguments = [f"logdir={tmp_path / 'run'}", "--seed=8", *(f"--gin_bindings={k}={v}" for k, v in TINY.items())]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "KERAS_"))}
    said = subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert said.returncode == 0 and said.stdout == ""
    lines = said.stderr.splitlines()
    starts = ("Train: dense, MLP on digits, sparsity 0, 4 steps of 16 examples, seed 8", "On:    CPU:0, ", "In:    ")
    *start, progress, chance, result, paths, command = (line.partition("] ")[2] for line in lines)
    assert len(start) == 3 and all(map(str.startswith, start, starts)) and start[2].endswith(", a new run")
    assert "The run ends at chance" in chance
    assert "step 4 of 4" in progress and "test accuracy" in result and str(tmp_path / "run" / files.RESULT) in paths
    assert command == f"Next:  python hessian.py --logdir={tmp_path / 'run'} --gin_config=mlp_configs/hessian.gin"
    assert json.loads((tmp_path / "run" / files.RESULT).read_text())["seed"] == 8


def test_dashes_are_added_to_known_flags_alone():
    arguments = ["train.py", "logdir=/a", "--seed=8", "training.total_steps=3", "speed=9", "=", "--logdir=/b"]
    assert cli.add_dashes(arguments) == ["train.py", "--logdir=/a", *arguments[2:]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity=0.9"], "Unknown command line flag 'sparsity'"),
        (["sparsity=0.9"], "'sparsity=0.9' is not a flag; see --help."),
        (["--mode=test"], "flag --mode=test: value should be one of <"),
        (["--seed=-1"], "--seed=-1"),
        (["--gin_config=configs/none.gin"], "There is no gin file configs/none.gin; --gin_config takes paths such as"),
        (["--preload_gin_config=none.gin"], "There is no gin file none.gin"),
    ],
)
def test_a_command_line_that_cannot_be_meant(arguments, message, call, tmp_path):
    status, _, error = call(f"--logdir={tmp_path / 'run'}", *arguments)
    assert status == 2 and message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        (
            "prunning.mode='prune'",
            "No configurable matching 'prunning' (in bindings string line 6); the names are",
        ),
        (
            "pruning.speed=1",
            "Configurable 'pruning' doesn't have a parameter named 'speed' (in bindings string line 6); it",
        ),
        ("training.total_steps", "(line 6)"),
        ("masks.sparsity=%NONE", "No line defines the macro NONE; write NONE = VALUE"),
        ("include 'none.gin'", "Unable to open file: none.gin"),
        ("training.total_steps='9'", "training.total_steps='9' must be an integer."),
        ("training.log_freq=0", "training.log_freq=0 must be at least 1."),
        ("masks.sparsity=1.5", "masks.sparsity=1.5 must be at least 0 and below 1, or None."),
        ("network.network_name='lenet'", "network.network_name='lenet' is not known; use one of"),
        (
            "mask_updater.update_alg='rigel'",
            "mask_updater.update_alg='rigel' is not known; use one of static, static_reinit, set, rigl",
        ),
    ],
)
def test_a_configuration_that_cannot_be_meant(binding, message, call, tmp_path):
    status, _, error = call(f"--logdir={tmp_path / 'run'}", f"--gin_bindings={binding}")
    assert status == 2 and message in error
    assert not (tmp_path / "run").exists()


def test_a_gin_file_is_told_by_name_and_line(call, tmp_path):
    file = tmp_path / "own.gin"
    file.write_text("training.total_steps = 3\ntraining.sede = 1\n")
    status, _, error = call(f"--logdir={tmp_path / 'run'}", f"--gin_config={file}")
    assert status == 2 and f'(in file "{file}", line 2)' in error and "it has seed, data_seed, total_steps" in error


def test_an_include_lies_beside_its_file(call, tmp_path, monkeypatch):
    for folder, steps in (("a", 3), ("b", 2), (".", 9)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "base.gin").write_text(f"training.total_steps = {steps}\n")
        (tmp_path / folder / "mode.gin").write_text("include 'base.gin'\n")
    monkeypatch.chdir(tmp_path)
    for files_read, steps in ((["a"], 3), (["b"], 2), (["a", "b"], 2), (["b", "a"], 3)):
        gin.clear_config()
        commands.parse_gin(Options(gin_config=[f"{folder}/mode.gin" for folder in files_read]))
        assert Experiment.from_gin().training.total_steps == steps


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"data__name": "'nodata'"}, "There is no data set 'nodata'"),
        ({"data__name": "'gone.npz'"}, "There is no file 'gone.npz'"),
        ({"data__validation_size": "5000"}, "validation_size is 5000"),
        (
            {"network__mask_init_path": "'/nowhere/ckpt-9'"},
            "There is no checkpoint /nowhere/ckpt-9; /nowhere has none.",
        ),
        ({"optimizer__learning_rate": "1e30", "training__total_steps": "8"}, "The training loss is"),
    ],
)
def test_a_failure_is_one_line(bindings, message, call, tmp_path):
    status, _, error = call(f"--logdir={tmp_path / 'run'}", **bindings)
    assert status == 1 and message in error


def test_an_unwritable_directory(call, tmp_path):
    (tmp_path / "file").touch()
    status, _, error = call(f"--logdir={tmp_path / 'file' / 'run'}")
    assert status == 1 and error.endswith("cannot be written (Not a directory); choose another.")


def test_a_directory_of_somebody_else(call, tmp_path):
    (tmp_path / "thesis.tex").touch()
    status, _, error = call(f"--logdir={tmp_path}")
    assert status == 1 and "is not a run of this suite (it holds thesis.tex" in error
    status, _, error = call(f"--logdir={tmp_path}", "--overwrite")
    assert status == 1 and [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_configuration_in_the_same_directory(call, copied):
    status, _, error = call(f"--logdir={copied}", training__batch_size="32")
    assert status == 1
    assert "(training.batch_size is 16 there and 32 here)" in error
    assert json.loads((copied / files.RESULT).read_text())["steps"] == 4


def test_a_finished_run_is_told_again(call, copied, finished):
    before = {path.name: path.stat().st_mtime_ns for path in copied.iterdir()}
    assert call(f"--logdir={copied}")[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in copied.iterdir()} == before
    assert (copied / files.RESULT).read_text() == (finished / files.RESULT).read_text()


def test_overwrite_starts_again(call, copied):
    assert call(f"--logdir={copied}", "--overwrite", training__total_steps="2")[0] == 0
    assert list_steps(copied) == [0, 2]


def test_a_truncated_checkpoint_is_told_and_the_run_goes_on_without_it(call, copied):
    (copied / files.RESULT).unlink()
    data = copied / "ckpt-4.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:200])
    status, _, error = call(f"--logdir={copied}")
    assert status == 1 and "ckpt-4 is damaged" in error and f"delete {copied / 'ckpt-4'}.* to go on" in error
    for path in copied.glob("ckpt-4.*"):
        path.unlink()
    assert call(f"--logdir={copied}")[0] == 0


@pytest.mark.parametrize("of", ["mask", "weight"])
def test_a_checkpoint_of_another_network(of, call, finished, tmp_path):
    status, _, error = call(
        f"--logdir={tmp_path / 'run'}", mlp__hidden_sizes="(9,)", **{f"network__{of}_init_path": f"'{finished}'"}
    )
    assert status == 1 and "does not fit" in error and "has shape (784, 8), not (784, 9)" in error


def test_preload_reads_another_runs_configuration(call, finished, tmp_path):
    file = finished / files.OPERATIVE_CONFIG
    assert call(f"--logdir={tmp_path}", f"--preload_gin_config={file}", training__batch_size="8")[0] == 0
    written = (tmp_path / files.OPERATIVE_CONFIG).read_text()
    assert written == file.read_text().replace("batch_size = 16", "batch_size = 8")


def test_the_configuration_is_complete(call, tmp_path):
    arguments = {
        "network__weight_init_method": "'unit_scaled'",
        "unit_scaled_init__scale": "2.0",
        "masks__sparsity": "0.5",
    }
    assert call(f"--logdir={tmp_path}", **arguments)[0] == 0
    assert "unit_scaled_init.scale = 2.0" in (tmp_path / files.OPERATIVE_CONFIG).read_text()
    status, _, error = call(f"--logdir={tmp_path}", **{**arguments, "unit_scaled_init__scale": "1.0"})
    assert status == 1 and "(unit_scaled_init.scale is 2.0 there and 1.0 here)" in error


def test_the_seed_of_the_command_line_wins_over_files(call, tmp_path):
    assert call(f"--logdir={tmp_path}", "--seed=7", training__seed="3")[0] == 0
    assert json.loads((tmp_path / files.RESULT).read_text())["seed"] == 7


def test_eval_prints_json(call, finished):
    status, out, _ = call(f"--logdir={finished}", "--mode=eval")
    result, values = json.loads((finished / files.RESULT).read_text()), json.loads(out)
    assert status == 0 and values["test_accuracy"] == result["test_accuracy"]
    assert {"train_loss", "validation_loss", "test_loss", "sparsity"} <= values.keys()
    status, out, _ = call(f"--logdir={finished}", "--mode=eval", f"--ckpt={finished / 'ckpt-0'}")
    assert status == 0 and json.loads(out)["test_loss"] != values["test_loss"]


def test_eval_without_a_run(call, tmp_path):
    status, _, error = call(f"--logdir={tmp_path}", "--mode=eval")
    assert status == 1 and "holds no run (operative_config.gin is missing)" in error


def test_a_strategy_that_is_not_there(call, tmp_path):
    status, _, error = call(f"--logdir={tmp_path / 'run'}", "--strategy=gpu")
    assert status == 1 and "needs a GPU and TensorFlow sees none" in error


def test_options_are_the_common_flags():
    words = ["--seed=3", "--gin_config=a.gin", "--gin_config=b.gin", "--gin_bindings=masks.sparsity=0.9"]
    with flagsaver.flagsaver():
        flags.FLAGS(["train.py", *words, "--preload_gin_config=c.gin", "--strategy=tpu", "--tpu=local"])
        found = Options.from_flags()
    assert found == Options(
        gin_config=["a.gin", "b.gin"],
        gin_bindings=["masks.sparsity=0.9"],
        updater_module=[],
        preload_gin_config="c.gin",
        seed=3,
        strategy="tpu",
        tpu="local",
    )
    assert found.has_configuration and not Options(seed=3).has_configuration


def test_flags_of_published_command_lines():
    with flagsaver.flagsaver():
        flags.FLAGS(["train.py", "--use_tpu"])
        assert Options.from_flags().strategy == "tpu"
    with flagsaver.flagsaver():
        flags.FLAGS(["train.py", "--nouse_tpu", "--strategy=mirrored"])
        assert Options.from_flags().strategy == "mirrored"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RunError("a"), 1),
        (SettingError("a"), 2),
        (Interrupted(signal.SIGTERM, 3), 128 + signal.SIGTERM),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_ends_a_command_has_its_status(error, status, monkeypatch, call, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(commands, "train", fail)
    assert call(f"--logdir={tmp_path}")[0] == status


@pytest.mark.parametrize("error", [ZeroDivisionError("a"), AssertionError("a"), ValueError("a"), TypeError("a")])
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(commands, "train", fail)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with flagsaver.flagsaver(), pytest.raises(type(error)):
        cli.run(train.main)


@pytest.mark.parametrize("error", [InputError("what to do"), RunError("what to do")])
def test_what_is_for_the_user_is_one_line(error, monkeypatch, call, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(commands, "train", fail)
    assert call(f"--logdir={tmp_path}") == (1, "", "what to do")


def test_the_library_raises_no_plain_value_error():
    raising = [path for path in LIBRARY.rglob("*.py") if "raise ValueError" in path.read_text(encoding="utf8")]
    assert not raising, "raise InputError, whose message is for the user"


@pytest.mark.parametrize(
    ("error", "status"), [(InputError("a\n  b"), 1), (RunError("a b"), 1), (SettingError("a b"), 2)]
)
def test_the_body_of_any_entry_point_ends_in_one_line(error, status, capsys):
    def fail():
        raise error

    assert cli.exit_status(fail) == status
    assert capsys.readouterr().err == "error: a b\n"


def test_the_status_of_a_body_is_passed_on():
    assert [cli.exit_status(lambda status=status: status) for status in (None, 0, 3)] == [0, 0, 3]
