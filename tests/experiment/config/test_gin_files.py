"""Reading of gin files: includes at any depth, loops, imports, and errors in one line."""

import sys

import gin
import pytest

from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.runtime.errors import SettingError
from tests.experiment.mutations import error_of as refusal_of
from tests.experiment.mutations import mutations


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


@pytest.mark.parametrize("where", ["bindings", "file"])
def test_a_macro_that_nothing_uses_is_an_error_with_the_nearest_name(where, tmp_path):
    write(tmp_path, net="SPARSITY = 0.95\nOTHER = 1", own="include 'net.gin'\nmasks.sparsity = %SPARSITY")
    if where == "file":
        write(tmp_path, own="include 'net.gin'\nmasks.sparsity = %SPARSITY\nSPARSTY = 0.9")
    message = error_of(tmp_path / "own.gin", bindings=["SPARSTY=0.9"] if where == "bindings" else [])
    assert message.startswith("Nothing uses the macro SPARSTY (did you mean 'SPARSITY'?)")
    with pytest.raises(SettingError, match="Nothing uses the macro SPARSTY; no macro is in use"):
        read(bindings=["SPARSTY=0.9"])
    with pytest.raises(SettingError, match="Nothing uses the macro SPARSTY"):
        read(bindings=["SPARSTY/gin.macro.value=0.9"])


def test_a_network_file_of_the_command_line_may_define_macros_of_other_methods(tmp_path):
    write(tmp_path, net="PRUNING_BEGIN = 1\nPRUNING_END = 2\nUPDATE_FREQ = 3", method="pruning.end_step = %PRUNING_END")
    read(tmp_path / "net.gin", tmp_path / "method.gin")


def test_macros_of_includes_may_go_unused_and_overridden_uses_count(tmp_path):
    write(tmp_path, net="SPARSITY = 0.95\nSTEPS = 9", own="include 'net.gin'\ntraining.total_steps = %STEPS")
    # The network's file defines SPARSITY for other methods; the second binding overrides the use of STEPS.
    read(tmp_path / "own.gin", bindings=["SPARSITY = 0.9", "training.total_steps = 5", "STEPS = 7"])
    assert gin.query_parameter("training.total_steps") == 5


def test_macros_nested_in_values_count(tmp_path):
    read(bindings=["A = 1", "B = [%A, {'x': (%A,)}]", "mlp.hidden_sizes = %B"])
    assert list(gin.get_bindings("mlp")["hidden_sizes"]) == [1, {"x": (1,)}]


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        (
            "data.name=mnist",
            "data.name=mnist is not a Python literal, and a text needs quotes, such as data.name='",
        ),
        ("training.total_steps", "'training.total_steps' has no value; write NAME = VALUE"),
        ("training.seed=%X", "No line defines the macro X; write X = VALUE."),
        ("training.sed=1", "it has seed, data_seed"),
        ("trainin.seed=1", "(did you mean 'training'?)"),
        ("a/training.seed=1", "No setting is read in a scope: write training.seed, without a/ before it"),
        ("training.seed=" + "(" * 3000 + "1" + ")" * 3000, "too many brackets"),
        ("training.seed=" + "9" * 5000, "training.seed=999"),
        ("training.seed='abc", "."),
        ("\0", "."),
    ],
)
def test_mistakes_in_bindings_are_explained(binding, message):
    assert message in error_of(bindings=[binding])


def test_macros_that_define_each_other_are_named():
    assert "defined by each other: A, B" in error_of(bindings=["training.seed=%A", "A=[%B]", "B=%A"])


def test_text_that_was_mutated_never_ends_in_a_traceback(tmp_path):
    """Cuts, repeats and replaces bytes of a gin file at seeded places."""
    text = (b"include 'net.gin'\ntraining.total_steps = %STEPS\nSTEPS = 1_000  # of one\nmasks.custom = {'a': 0.5}\n"
            b"training:\n  seed = 3\noptimizer.name = 'adam'\nmlp.hidden_sizes = (3, \\\n  4)\n")  # fmt: skip
    write(tmp_path, net="training.batch_size = 8")
    for mutated in mutations(text, count=60):
        (tmp_path / "own.gin").write_bytes(mutated)
        assert "\n" not in (refusal_of(lambda: read(tmp_path / "own.gin")) or "")
