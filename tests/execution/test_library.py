"""The compiled library: built here, loaded once, and missed without harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_lib._utils.errors import InputError
from sparse_lib.execution import library
from sparse_lib.execution.native import build


def test_library_is_there_and_current():
    assert library.available(), library.reason()
    assert library.reason() == ""
    assert build.is_current(), "Run `make setup`: the library is older than its sources."


def test_number_of_threads_is_checked():
    with pytest.raises(InputError, match="negative"):
        library.use_threads(-1)


@pytest.mark.parametrize(("content", "reason"), [(None, "not built"), (b"no library", "cannot be loaded")])
def test_what_cannot_be_loaded_has_a_reason(content, reason, tmp_path, monkeypatch):
    path = tmp_path / "products.so"
    if content:
        path.write_bytes(content)
    monkeypatch.setattr(library, "LIBRARY", path)
    assert not library.available()
    assert reason in library.reason()
    assert library.reason().count("\n") == 0
    with pytest.raises(InputError, match=reason):
        library.operations()


def _run_build(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Runs a copy of the native folder's build in an environment without compilers."""
    native = folder / "native"
    native.mkdir()
    for path in build.FOLDER.glob("*.[chp]*"):
        (native / path.name).write_bytes(path.read_bytes())
    environment = {name: value for name, value in os.environ.items() if name not in ("PATH", "CC")} | variables
    return subprocess.run(
        [sys.executable, "-I", str(native / "build.py")], check=False, capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize("variables", [{"PATH": ""}, {"PATH": "", "CC": "no-such-compiler"}, {"CC": "false"}])
def test_without_a_compiler_all_is_dense_and_no_error(variables, tmp_path):
    done = _run_build(tmp_path, **{"PATH": os.environ["PATH"], **variables})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Sparse layers run dense here.")
    assert not list(tmp_path.rglob("*.so*"))


@pytest.mark.slow
def test_build_from_a_copy_of_the_sources(tmp_path):
    done = _run_build(tmp_path, PATH=os.environ["PATH"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Built sparse_products.so")
    assert [path.name for path in (tmp_path / "native").glob("*.so*")] == ["sparse_products.so"]
