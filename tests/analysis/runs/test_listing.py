"""The list of runs, against directories whose numbers are chosen by hand."""

import fcntl
import json
import os
import pathlib
import subprocess
import sys

import pytest

from analysis.runs import __main__ as command
from analysis.runs.listing import list_runs
from analysis.runs.table import format_rows, format_table, sort_rows
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.storage import files

ROOT = pathlib.Path(__file__).parents[3]


def write(directory, *, method="rigl.erk", sparsity=0.9, seed=0, lines=(), bindings=(), total=100):
    """Writes what a run of 100 steps has written when it is interrupted."""
    directory.mkdir(parents=True)
    described = {
        "method": method,
        "label": "",
        "setting": "MLP on digits",
        "network": "mlp",
        "data": "digits",
        "target_sparsity": sparsity,
        "mask_source": "",
        "seed": seed,
        "total_steps": total,
    }
    (directory / files.RUN).write_text(json.dumps(described))
    settings = [f"training.seed = {seed}", "training.batch_size = 16", *bindings]
    (directory / files.OPERATIVE_CONFIG).write_text("\n".join(settings))
    (directory / files.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def line(step, accuracy, split="validation"):
    return {"step": step, "sparsity": 0.8765, f"{split}_accuracy": accuracy, "test_accuracy": accuracy - 0.1}


@pytest.fixture
def runs(tmp_path):
    """A finished, a diverged and an interrupted run, and one without a log."""
    top = tmp_path / "runs"
    done = write(top / "b" / "done", seed=1, lines=[line(0, 0.5), line(100, 0.75)])
    (done / files.RESULT).write_text("{}")
    bad = write(top / "a", lines=[line(20, 0.25)], bindings=["mask_updater.update_freq = 7"])
    (bad / files.RESULT).write_text(json.dumps({"outcome": "diverged", "error": "The training loss is nan."}))
    write(top / "c", method="lottery", sparsity=None, lines=[line(40, 0.9)])
    write(top / "d", lines=[], bindings=["mask_updater.update_freq = 5", "training.log_freq = 3"])
    return top


def test_every_run_has_a_row(runs):
    found = {row.run: row for row in list_runs([runs])}
    assert list(found) == ["a", "b/done", "c", "d"]
    assert [row.state for row in found.values()] == ["diverged", "finished", "interrupted", "interrupted"]
    assert [row.step for row in found.values()] == [20, 100, 40, 0]
    assert [row.accuracy for row in found.values()] == [0.25, 0.75, 0.9, None]
    # The masks of another run: what was measured.
    assert [row.sparsity for row in found.values()] == [0.9, 0.9, 0.876, 0.9]
    assert found["a"].note == "The training loss is nan."
    # Of runs of one method, and neither seeds nor logging.
    assert [row.differences for row in found.values()] == [
        {"mask_updater.update_freq": 7},
        {},
        {},
        {"mask_updater.update_freq": 5},
    ]


def test_a_run_without_validation_shows_its_test_accuracy(tmp_path):
    write(tmp_path / "run", lines=[{"step": 5, "test_accuracy": 0.5}])
    (row,) = list_runs([tmp_path])
    assert (row.accuracy, row.split) == (0.5, "test")


def test_a_run_that_ended_at_chance_says_so(tmp_path):
    (write(tmp_path / "run") / files.RESULT).write_text(json.dumps({"outcome": "at_chance"}))
    assert list_runs([tmp_path])[0].note == "at chance"


def test_a_locked_run_is_running_and_its_pace_tells_the_time_left(runs):
    directory = runs / "c"
    # Went on at second 1000 from step 20; 20 steps later, 10 seconds have passed.
    for name, second in ((files.RUN, 1000), (files.METRICS, 1010)):
        os.utime(directory / name, (second, second))
    for number, second in ((0, 900), (20, 950), (40, 1009)):
        (directory / f"ckpt-{number}.index").touch()
        os.utime(directory / f"ckpt-{number}.index", (second, second))
    handle = os.open(directory, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    row = {row.run: row for row in list_runs([runs])}["c"]
    os.close(handle)
    assert row.state == "running" and row.seconds_left == pytest.approx(30.0)
    assert {row.run: row for row in list_runs([runs])}["c"].state == "interrupted"


def test_the_table(runs):
    shown = format_table(list_runs([runs])).splitlines()
    assert shown[0].split() == [
        *("run", "state", "method", "step", "of", "sparsity", "seed", "validation", "accuracy", "what", "differs")
    ]
    assert shown[2].split(maxsplit=8)[:8] == "a diverged rigl.erk 20 100 0.9 0 0.2500".split()
    assert shown[2].endswith("0.2500  The training loss is nan, update_freq=7")
    assert shown[5].endswith("update_freq=5")
    assert shown[6] == "4 runs: 1 diverged, 1 finished, 2 interrupted"


def test_names_that_end_alike_are_written_out(tmp_path):
    for number in (1, 2):
        write(tmp_path / str(number), bindings=[f"optimizer.momentum = 0.{number}", f"mlp.momentum = {number}"])
    assert "mlp.momentum=1, optimizer.momentum=0.1" in format_table(list_runs([tmp_path]))


def test_sorting_puts_what_is_missing_last(runs):
    rows = list_runs([runs])
    assert [row.run for row in sort_rows(rows, "accuracy")] == ["a", "b/done", "c", "d"]
    assert [row.run for row in sort_rows(rows, "-accuracy")] == ["c", "b/done", "a", "d"]
    assert [row.run for row in sort_rows(rows, "-step")] == ["b/done", "c", "a", "d"]


def test_json_has_every_attribute(runs):
    (first, *_), rows = json.loads(format_rows(list_runs([runs])))["runs"], list_runs([runs])
    assert first.keys() == set(rows[0]._fields) and first["differences"] == {"mask_updater.update_freq": 7}


def test_damaged_files_leave_gaps(tmp_path):
    directory = write(tmp_path / "run", lines=[line(10, 0.5)])
    with (directory / files.METRICS).open("a") as file:
        file.write('{"step": 20, "validation')
    assert list_runs([tmp_path])[0].step == 10
    (directory / files.OPERATIVE_CONFIG).write_bytes(b"\xff\xfe")
    (directory / files.METRICS).write_bytes(b"\xff\xfe\n\n")
    assert list_runs([tmp_path])[0].step == 0


def test_the_command(runs, tmp_path, capsys):
    assert command.main([str(runs), "--json", "--sort=-step"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)["runs"]] == ["b/done", "c", "a", "d"]
    assert command.main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: There is no directory ")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert command.main([str(empty)]) == 1
    assert "There is no run below" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([str(runs), "--sort=speed"])


def test_watching_prints_until_it_is_stopped(runs, monkeypatch, capsys):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert command.main([str(runs), "--watch=3"]) == 0
    assert waits == [3.0, 3.0] and capsys.readouterr().out.count("4 runs: ") == 2


def test_no_tensorflow_is_imported(runs):
    code = (
        "import sys; from analysis.runs import __main__ as c; status = c.main(sys.argv[1:]); "
        "sys.exit(status or bool({'tensorflow', 'keras', 'pandas', 'gin'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs)], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_directory_without_runs_is_told(tmp_path):
    with pytest.raises(InputError, match="There is no run below"):
        list_runs([tmp_path])
