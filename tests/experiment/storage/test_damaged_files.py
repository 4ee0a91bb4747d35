"""Damaged files of runs and analyses: one line that names the file, no traceback, and nothing changes."""

import json
import math

import numpy as np
import pytest

from sparse_lib.curvature.stored_parts import Parts
from sparse_lib.experiment.analyses import interpolation, spectra
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files, resumable, run_directory
from tests.experiment.mutations import error_of, mutations

COUNTS = [40, pytest.param(1000, marks=pytest.mark.slow)]
SUMMARY = {
    **dict.fromkeys(("parameters", "lambda_max", "lambda_min", "tolerance", "negative", "negative_mass"), 1.5),
    "condition": None,
    "trace": 2.0,
    "effective_rank": 1.0,
    "errors": {},
    "settings": {"seed": 0},
}
RECORDS = [{"step": step, "loss": step / 3, "note": None} for step in (0, 5, 10)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
TABLE = (
    b"coefficient,split,loss,accuracy\n0.0,train,1.5,0.5\n0.0,test,1.25,0.5\n1.0,train,0.5,0.75\n1.0,test,0.5,0.75\n"
)


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def check_reader(read, path, content, count):
    """Reads damaged copies of a file; returns how many were refused."""
    path.write_bytes(content)
    assert error_of(lambda: read(path)) is None
    refused = 0
    for mutated in mutations(content, count=count):
        path.write_bytes(mutated)
        before = snapshot(path.parent)
        message = error_of(lambda: read(path))
        if message is not None:
            assert message.startswith(str(path)) and "\n" not in message and message.endswith("."), message
            refused += 1
        assert snapshot(path.parent) == before
    path.unlink()
    path.mkdir()
    assert error_of(lambda: read(path)).startswith(f"{path} cannot be read (")
    path.rmdir()
    return refused


@pytest.mark.parametrize("count", COUNTS)
def test_json(count, tmp_path):
    content = json.dumps(SUMMARY).encode()
    path = tmp_path / "ckpt-7.json"
    assert check_reader(lambda p: files.read_json(p, "delete it"), path, content, count) > count / 4
    assert check_reader(lambda p: spectra.read_summary(p.parent, 7), path, content, count) > count / 4
    assert check_reader(lambda p: resumable.claim(p, {"seed": 0}, required=["trace"]), path, content, count) > count / 4


@pytest.mark.parametrize("count", COUNTS)
def test_lines(count, tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert check_reader(lambda p: files.JsonLines(p).read(), path, LINES, count) > count / 4


@pytest.mark.parametrize("count", COUNTS)
def test_table_of_a_path(count, tmp_path):
    assert check_reader(interpolation.read_table, tmp_path / "interpolation.csv", TABLE, count) > count / 4


@pytest.mark.parametrize("count", COUNTS)
def test_arrays(count, tmp_path):
    path = tmp_path / "surface.npz"
    np.savez(path, xs=np.arange(3.0), ys=np.arange(2.0))
    content = path.read_bytes()
    assert check_reader(lambda p: files.read_arrays(p, "delete it", ["xs", "ys"]), path, content, count) > count / 4


@pytest.mark.parametrize("count", COUNTS)
def test_parts_that_cannot_be_read_are_dropped(count, tmp_path):
    Parts(tmp_path, "abc").put(4, rows=np.arange(50.0))
    part, record = tmp_path / "part-4.npz", tmp_path / "computation.json"
    intact = {path: path.read_bytes() for path in (part, record)}
    for path, content in intact.items():
        for mutated in mutations(content, count=count):
            for other, original in intact.items():
                other.write_bytes(original)
            path.write_bytes(mutated)
            parts = Parts(tmp_path, "abc")
            assert all(np.array_equal(parts.get(number)["rows"], np.arange(50.0)) for number in parts.numbers())
    for path in intact:
        path.unlink(missing_ok=True)
        path.mkdir()
    assert Parts(tmp_path, "abc").numbers() == []


def test_a_damaged_line_in_the_middle_is_named_and_the_file_stays(tmp_path):
    log = files.JsonLines(tmp_path / "metrics.jsonl")
    log.path.write_bytes(LINES.replace(b'"step": 5', b'"step": x'))
    before = log.path.read_bytes()
    with pytest.raises(
        RunError, match=r"metrics.jsonl cannot be read \(line 2: .*; delete it to go on without its rec"
    ):
        log.keep_until(10, inclusive=True)
    assert log.path.read_bytes() == before
    assert [record["step"] for record in log.scan()[0]] == [0, 10]
    # The advice leads on.
    log.path.unlink()
    log.keep_until(10, inclusive=True)
    log.append(RECORDS[0])
    assert log.read() == RECORDS[:1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_somebody_else_are_not_replaced(overwrite, tmp_path):
    foreign = tmp_path / "surface.npz"
    foreign.write_bytes(b"mine")
    with pytest.raises(RunError, match=r"surface.npz comes from elsewhere \(there is no surface.json\); move it"):
        resumable.claim(tmp_path / "surface.json", {}, overwrite=overwrite, beside=[foreign])
    assert foreign.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["a[b]c", "a\\b", b"\xff\xfe".decode("utf8", "surrogateescape")])
def test_directories_that_tensorflow_cannot_read_are_refused_before_any_work(name, tmp_path):
    with pytest.raises(RunError, match="TensorFlow cannot read checkpoints below"), run_directory.lock(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_valid_json():
    assert json.loads(files.format_json({"a": math.nan, "b": [math.inf]})) == {"a": None, "b": [None]}
