"""The demonstration: its runs and their order, and how it resumes, fails and stops."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import gin
import pytest

from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.jobs import demo, stages
from sparse_lib.experiment.runtime.errors import RunError

# Stands in for train.py: notes when it ran, and leaves what a run leaves.
FAKE = """
import json, os, pathlib, sys, time
flags = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[1:] if a.startswith("--"))
run = pathlib.Path(flags["logdir"])
history = pathlib.Path(os.environ["HISTORY"])
def note(word):
    with history.open("a") as file:
        file.write(f"{word} {run.name}\\n")
note("start")
if run.name == os.environ.get("BROKEN"):
    print("some line\\nerror: it is broken", file=sys.stderr)
    sys.exit(1)
time.sleep(float(os.environ.get("SECONDS_OF_WORK", "0")))
run.mkdir(parents=True, exist_ok=True)
record = {"step": 3000, "active_weights": 2210, "gradient_norm": 0.5}
(run / "metrics.jsonl").write_text(json.dumps({**record, "step": 50}) + "\\n" + json.dumps(record) + "\\n")
note("end")
(run / "result.json").write_text(json.dumps({"test_accuracy": 0.97, "sparsity": 0.95, "inference_flops": 300,
    "dense_inference_flops": 3000, "steps_per_second": 117.2, "outcome": "trained", "left_plateau_at": 1500}))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch) -> pathlib.Path:
    """Replaces train.py, and returns the file where its stand-in notes what it does."""
    script = tmp_path / "fake_train.py"
    script.write_text(FAKE)
    monkeypatch.setattr(demo, "TRAIN", script)
    monkeypatch.setattr(stages, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("HISTORY", str(tmp_path / "history"))
    return tmp_path / "history"


def started(history: pathlib.Path) -> list[str]:
    return [line.split()[1] for line in history.read_text().splitlines() if line.startswith("start")]


@pytest.mark.parametrize("mode", demo.MODES, ids=lambda mode: mode.name)
def test_commands_name_gin_files_and_settings_that_exist(mode):
    words = demo.make_stage(mode, pathlib.Path("somewhere/demo")).command
    flags = [word.removeprefix("--").split("=", 1) for word in words[1:]]
    (config,) = [value for name, value in flags if name == "gin_config"]
    bindings = [value for name, value in flags if name == "gin_bindings"]
    gin.clear_config()
    gin_files.parse([config], bindings)
    try:
        training, network, pruning = gin_names.training(), gin_names.network(), gin_names.pruning()
    finally:
        gin.clear_config()
    assert training.total_steps == demo.STEPS
    assert pruning.final_sparsity == (0.95 if mode.name == "prune" else 0.8)
    assert network.mask_init_path == ("somewhere/demo/prune" if mode.from_pruned else None)
    assert network.weight_init_path == ("somewhere/demo/prune/ckpt-0" if mode.name == "lottery" else None)


def test_tickets_and_baselines_see_the_same_data():
    assert len({mode.seed for mode in demo.MODES if mode.from_pruned}) == 1


@pytest.mark.parametrize("jobs", [1, 2, 6])
def test_every_stage_runs_once_and_masks_come_first(fake, tmp_path, jobs):
    demo.make_job(tmp_path / "out", jobs).run()
    assert sorted(started(fake)) == sorted(mode.name for mode in demo.MODES)
    history = fake.read_text().splitlines()
    for mode in demo.MODES:
        if mode.from_pruned:
            assert history.index("end prune") < history.index(f"start {mode.name}")


@pytest.mark.parametrize("jobs", [1, 2])
def test_so_many_at_a_time_and_no_more(fake, tmp_path, monkeypatch, jobs):
    monkeypatch.setenv("SECONDS_OF_WORK", "0.3")
    demo.make_job(tmp_path / "out", jobs).run()
    at_work, most = 0, 0
    for line in fake.read_text().splitlines():
        at_work += 1 if line.startswith("start") else -1
        most = max(most, at_work)
    assert most == jobs


def test_finished_stages_are_not_repeated(fake, tmp_path):
    demo.make_job(tmp_path / "out", 2).run()
    (tmp_path / "out" / "scratch" / "result.json").unlink()
    fake.write_text("")
    demo.make_job(tmp_path / "out", 2).run()
    assert started(fake) == ["scratch"]


def test_a_stage_is_repeated_if_one_that_it_waits_for_ran_after_it(fake, tmp_path):
    demo.make_job(tmp_path / "out", 2).run()
    (tmp_path / "out" / "prune" / "result.json").unlink()
    fake.write_text("")
    demo.make_job(tmp_path / "out", 1).run()
    based = {mode.name for mode in demo.MODES if mode.from_pruned}
    assert set(started(fake)) == {"prune", *based}
    # The same if the job was killed before it came to them.
    (tmp_path / "out" / "logs" / "prune.log").touch()
    fake.write_text("")
    demo.make_job(tmp_path / "out", 1).run()
    assert set(started(fake)) == based


def test_stages_must_come_after_those_that_they_wait_for(tmp_path):
    waits = stages.Stage("second", ("-c", ""), lambda: True, after=("first",))
    first = stages.Stage("first", ("-c", ""), lambda: True)
    with pytest.raises(RunError, match="second waits for first: no stage before it"):
        stages.Job("job", [waits, first], tmp_path)
    stages.Job("job", [first, waits], tmp_path)


def test_other_settings_need_another_directory(fake, tmp_path, monkeypatch):
    demo.make_job(tmp_path / "out", 2).run()
    monkeypatch.setattr(demo, "SHARED", ("training.total_steps=7",))
    fake.write_text("")
    with pytest.raises(RunError, match="choose another --out for other settings"):
        demo.make_job(tmp_path / "out", 2).run()
    assert not started(fake)


def test_failure_is_one_line_with_the_log(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("BROKEN", "lottery")
    with pytest.raises(RunError) as raised:
        demo.make_job(tmp_path / "out", 1).run()
    log = tmp_path / "out" / "logs" / "lottery.log"
    assert str(raised.value) == f"The stage 'lottery' failed, see {log}: it is broken"
    assert "some line" in log.read_text()
    monkeypatch.delenv("BROKEN")
    demo.make_job(tmp_path / "out", 1).run()
    assert all((tmp_path / "out" / mode.name / "result.json").exists() for mode in demo.MODES)


def test_a_stage_that_ends_without_its_result_has_failed(fake, tmp_path, monkeypatch):
    pathlib.Path(demo.TRAIN).write_text("print('nothing done')")
    with pytest.raises(RunError, match=r"^The stage '\w+' failed, see .*\.log: nothing done$"):
        demo.demonstrate(tmp_path / "out", 1)


def test_unwritable_directory_is_one_line(fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        demo.make_job(tmp_path / "file" / "out", 1)


def test_without_a_checkout_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAIN", tmp_path / "train.py")
    with pytest.raises(RunError, match="clone the repository"):
        demo.make_job(tmp_path / "out", 1)


def test_logs_begin_with_a_command_that_can_be_typed(fake, tmp_path):
    demo.make_job(tmp_path / "out", 2).run()
    line = (tmp_path / "out" / "logs" / "prune.log").read_text().splitlines()[0]
    mode = next(mode for mode in demo.MODES if mode.name == "prune")
    assert shlex.split(line) == ["$", "python", *demo.make_stage(mode, tmp_path / "out").command]


def test_table_and_files(fake, tmp_path, capsys):
    out = tmp_path / "out"
    demo.demonstrate(out, 6)
    output = capsys.readouterr().out
    text = (out / "demo.txt").read_text()
    assert text in output
    assert str(out) in output.replace(text, "")
    rows = [line.split() for line in text.partition("\n\n")[0].splitlines()[3:]]
    assert [row[-8:] for row in rows] == [["0.9700", "1,500", "0.9500", "2,210", "300", "0.100", "0.5000", "117"]] * 7
    assert "So they need neither to train: the initialisation adds +0.0 points, RigL +0.0." in " ".join(text.split())
    stored = json.loads((out / "demo.json").read_text())
    assert list(stored) == [mode.name for mode in demo.MODES]
    assert stored["rigl"]["relative_flops"] == pytest.approx(0.1)
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("initialisation", "rigl", "credit"),
    [
        (True, True, "So each of the two is enough."),
        (True, False, "So the initialisation helps and RigL alone does not: RigL+ owes its training to it."),
        (False, True, "So RigL helps and the initialisation alone does not."),
        (False, False, "So neither alone is enough."),
    ],
)
def test_what_helps_gets_the_credit(initialisation, rigl, credit):
    ended = {"scratch": False, "scratch_plus": initialisation, "rigl_from_prune": rigl, "rigl": True}
    told = demo.explain(
        {
            name: {"outcome": "trained" if trained else "at_chance", "test_accuracy": 0.95 if trained else 0.1}
            for name, trained in ended.items()
        }
    )
    assert credit in told and told.startswith("From the dense initialisation,") and "do not train (10.0%)" in told


def test_runs_that_are_compared_differ_in_one_thing():
    scratch, plus, rigl = ({m.name: m for m in demo.MODES}[n] for n in ("scratch", "scratch_plus", "rigl_from_prune"))
    assert all(mode.from_pruned and mode.seed == 1 and not mode.bindings for mode in (scratch, plus, rigl))


# SIGINT is ignored at the start, as in the background of a script.
DRIVER = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from sparse_lib.experiment.jobs import demo
demo.TRAIN = pathlib.Path(sys.argv.pop(1))
demo.define_flags()
demo.cli.run(demo.main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_the_same_command_goes_on(fake, tmp_path, number):
    command = [sys.executable, "-c", DRIVER, str(demo.TRAIN), f"--out={tmp_path / 'out'}", "--jobs=2"]
    environment = {**os.environ, "PYTHONPATH": str(demo.ROOT), "SECONDS_OF_WORK": "60"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not fake.exists() or len(started(fake)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in output
    assert "Traceback" not in output
    assert "end" not in fake.read_text()
    demo.make_job(tmp_path / "out", 2).run()
    assert all((tmp_path / "out" / mode.name / "result.json").exists() for mode in demo.MODES)


@pytest.mark.slow
def test_real_runs_of_a_few_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "STEPS", 30)
    monkeypatch.setattr(demo, "SHARED", ("training.total_steps=30", "training.log_freq=3", "training.save_freq=10"))
    pruning = ("pruning.begin_step=5", "pruning.end_step=20", "pruning.frequency=5")
    short = [s if s.name != "prune" else demo.dataclasses.replace(s, bindings=pruning) for s in demo.MODES]
    monkeypatch.setattr(demo, "MODES", tuple(short))
    demo.demonstrate(tmp_path / "out", 2)
    stored = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert stored["dense"]["active_weights"] == 44_190
    assert stored["prune"]["active_weights"] == stored["lottery"]["active_weights"] == 2_210
    assert all(0 < row["early_gradient_norm"] < 1e3 for row in stored.values())
    assert "RigL+" in capsys.readouterr().out
