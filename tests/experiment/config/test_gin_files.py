"""Reading of gin files: includes at any depth, loops, imports, and errors in one line."""

import sys

import gin
import pytest

from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.runtime.errors import SettingError


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def write(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.gin").write_text(text)


def read(*paths, bindings=()):
    gin.clear_config()
    gin_files.parse([str(path) for path in paths], bindings)


def error_of(*paths, bindings=()) -> str:
    with pytest.raises(SettingError) as raised:
        read(*paths, bindings=bindings)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".") and not message.endswith("..")
    return message


def test_includes_at_any_depth_lie_beside_the_file_that_includes_them(tmp_path, monkeypatch):
    write(tmp_path / "a" / "b", leaf="training.batch_size = 64", mode="include 'leaf.gin'\ninclude '../base.gin'")
    write(tmp_path / "a", base="include 'leaf.gin'", leaf="training.log_freq = 7")
    # Files of the same names beside the outermost file, and in the working directory, are others.
    decoy = {"leaf": "training.batch_size = 1", "base": "training.log_freq = 1"}
    write(tmp_path / "own", mine="include '../a/b/mode.gin'", **decoy)
    write(tmp_path / "here", **decoy)
    monkeypatch.chdir(tmp_path / "here")
    read(tmp_path / "own" / "mine.gin")
    assert gin.query_parameter("training.batch_size") == 64 and gin.query_parameter("training.log_freq") == 7


def test_an_include_that_is_not_beside_its_file_may_lie_in_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path / "own", mine="include 'here.gin'")
    write(tmp_path / "work", here="training.log_freq = 7")
    monkeypatch.chdir(tmp_path / "work")
    read(tmp_path / "own" / "mine.gin")
    assert gin.query_parameter("training.log_freq") == 7


def test_statements_are_executed_in_order(tmp_path):
    write(
        tmp_path,
        first="training.log_freq = 1\ninclude 'second.gin'\ntraining.save_freq = 9",
        second="training.log_freq = 2\ntraining.save_freq = 2\nSTEPS = 5",
    )
    read(tmp_path / "first.gin", bindings=["training:\n  total_steps = %STEPS", "STEPS = 6"])
    values = {name: gin.query_parameter(f"training.{name}") for name in ("log_freq", "save_freq")}
    assert values == {"log_freq": 2, "save_freq": 9} and gin.query_parameter("%STEPS") == 6


def test_a_file_may_be_included_twice(tmp_path):
    write(tmp_path, mode="include 'a.gin'\ninclude 'b.gin'", a="include 'base.gin'", b="include 'base.gin'")
    write(tmp_path, base="training.log_freq = 3")
    read(tmp_path / "mode.gin")
    assert gin.query_parameter("training.log_freq") == 3


@pytest.mark.parametrize("last", ["a", "b", "c"])
def test_a_loop_of_includes_is_named(tmp_path, last):
    write(tmp_path, a="include 'b.gin'", b="include 'c.gin'", c=f"include '{last}.gin'")
    chain = {"a": "a.gin -> b.gin -> c.gin -> a.gin", "b": "b.gin -> c.gin -> b.gin", "c": "c.gin -> c.gin"}[last]
    message = error_of(tmp_path / "a.gin")
    assert f"include each other, remove one of the includes: {chain} (in file " in message and "c.gin" in message


@pytest.mark.parametrize(
    "statement",
    ["import bomb", "from bomb import x", "import bomb as b", "\\\nimport bomb", "import \\\n  bomb", "  import bomb"],
)
@pytest.mark.parametrize("where", ["file", "include", "bindings"])
def test_imports_are_refused_before_they_run(statement, where, tmp_path, monkeypatch):
    (tmp_path / "bomb.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, operative_config=statement, mode="include 'operative_config.gin'")
    paths = {"file": ["operative_config"], "include": ["mode"], "bindings": []}[where]
    bindings = [statement] if where == "bindings" else []
    message = error_of(*(tmp_path / f"{name}.gin" for name in paths), bindings=bindings)
    assert message.startswith("A gin file must not run code") and "delete the import of bomb" in message
    assert "bomb" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include 'none.gin'", "Unable to open file: none.gin. It is neither in "),
        ("include '.'", "Unable to open file: ."),
        ("training.seed = (1,", "A bracket or quote is opened and not closed in "),
        ("data.name = '''abc", "A bracket or quote is opened and not closed in "),
        ("data.name = mnist", "a text needs quotes"),
        ("training.sede = 1", "line 2); it has seed"),
        ("\ufefftraining.seed = 1", "own.gin, line 2"),
    ],
)
def test_errors_are_one_line(text, message, tmp_path):
    write(tmp_path, own=f"training.total_steps = 3\n{text}\n")
    assert message in error_of(tmp_path / "own.gin")


def test_an_error_in_an_include_names_its_file_and_line(tmp_path):
    write(tmp_path, own="include 'inner.gin'", inner="training.seed = 1\ntraining.sede = 1")
    assert f'(in file "{tmp_path / "inner.gin"}", line 2)' in error_of(tmp_path / "own.gin")


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "own.gin").write_bytes(b"\xff\xfe\x00")
    error_of(tmp_path / "own.gin")
