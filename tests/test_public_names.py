"""The public names: importable, known to type checkers, and loaded on first use."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

import sparse_lib

SOURCE = pathlib.Path(sparse_lib.__file__)


def names_for_type_checkers() -> dict[str, str]:
    """Returns the public names of the TYPE_CHECKING block, each with the module it is imported from."""
    tree = ast.parse(SOURCE.read_text(encoding="utf8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    # `import X as X` is what marks a name as exported.
    assert all(alias.asname == alias.name for node in imports for alias in node.names)
    return {alias.name: node.module for node in imports for alias in node.names}


def test_type_checkers_see_the_names_that_are_there():
    assert sorted(names_for_type_checkers()) == sparse_lib.__all__


@pytest.mark.parametrize(("name", "module"), names_for_type_checkers().items())
def test_a_name_is_that_of_its_module(name, module):
    assert getattr(sparse_lib, name) is getattr(importlib.import_module(module), name)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'RigLL'"):
        _ = sparse_lib.RigLL


def test_import_loads_no_tensorflow():
    program = "import sys, sparse_lib; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=SOURCE.parent.parent, check=False).returncode == 0
