"""Files that are whole or not there, and records that survive a killed process."""

import json
import math
import os

import pytest

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files


def test_atomic_replaces_at_once(tmp_path):
    path = tmp_path / "a.npz"
    path.write_text("old")
    with files.atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".npz"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_atomic_leaves_nothing_where_the_writer_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_what_the_system_refuses_is_told_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"gone/a\.txt cannot be written: No such file or directory\.$"):
        files.write_text(tmp_path / "gone" / "a.txt", "text")
    with pytest.raises(RunError, match=r"gone/b\.jsonl cannot be written: No such file"):
        files.JsonLines(tmp_path / "gone" / "b.jsonl").append({"step": 0})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"result\.json cannot be written: No space left on device\.$"):
        files.write_json(tmp_path / "result.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_json_is_standard_json(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": math.nan, "b": math.inf, "c": 0.1, "d": {"e": "x"}, "f": 3})
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {"a": None, "b": None, "c": 0.1, "d": {"e": "x"}, "f": 3}


def records(*steps):
    return [{"step": step, "loss": step / 3} for step in steps]


@pytest.fixture
def log(tmp_path):
    lines = files.JsonLines(tmp_path / "metrics.jsonl")
    for record in records(0, 5, 10, 15):
        lines.append(record)
    return lines


def test_lines_read_what_was_appended(log, tmp_path):
    assert log.read() == records(0, 5, 10, 15)
    assert files.JsonLines(tmp_path / "none.jsonl").read() == []
    log.append({"step": 20, "loss": math.nan})
    assert log.read()[-1] == {"step": 20, "loss": None}


@pytest.mark.parametrize(
    ("step", "inclusive", "left"),
    [
        (10, True, (0, 5, 10)),
        (10, False, (0, 5)),
        (12, False, (0, 5, 10)),
        (0, False, ()),
        (0, True, (0,)),
        (99, True, (0, 5, 10, 15)),
    ],
)
def test_lines_forget_what_a_checkpoint_has_not_seen(step, inclusive, left, log):
    log.keep_until(step, inclusive=inclusive)
    assert log.read() == records(*left)


@pytest.mark.parametrize("lost", [1, 5, 20])
def test_a_torn_last_line_is_left_out_and_the_file_grows_on(lost, log):
    log.path.write_text(log.path.read_text()[: -lost - 1])
    assert log.read() == records(0, 5, 10)
    log.keep_until(10, inclusive=True)
    log.append(records(15)[0])
    assert log.path.read_text().count("\n") == 4
    assert log.read() == records(0, 5, 10, 15)


def test_keeping_lines_leaves_bytes_as_they_are(log):
    before = log.path.read_bytes()
    log.keep_until(15, inclusive=True)
    assert log.path.read_bytes() == before


def test_nothing_to_forget(tmp_path):
    files.JsonLines(tmp_path / "none.jsonl").keep_until(3, inclusive=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 3, 70_000])
def test_the_last_record_is_found_from_the_end(length, tmp_path):
    lines = files.JsonLines(tmp_path / "log.jsonl")
    assert lines.last() == {}
    for step in range(3):
        lines.append({"step": step, "text": "é" * length})
    assert lines.last() == lines.read()[-1]
    # From a killed process.
    with lines.path.open("ab") as file:
        file.write(b'{"step": 9, "text": "\xc3')
    assert lines.last()["step"] == 2
