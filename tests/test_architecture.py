"""The direction of imports, read off the syntax trees."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCANNED = ("sparse_lib", "analysis", "benchmarks", "examples")
ENTRY_POINTS = ("train", "hessian", "interpolate")
# These use the library and the entry points' results, and are used by neither.
USERS = ("analysis", "benchmarks", "examples", "tests")

# A module may import its own row and the rows above it.
CORE = (
    "_utils _keras",
    "selection distributions schedules learning_rates mask_files mask_checkpoints structures batches signs",
    "kernels",
    "dense_weights magnitude",
    "mask_report",
    "masks",
    "updaters initializers objective",
    "execution layers gradient_flow metainit dead_neurons mask_symmetry counting",
    "oneshot optimizer",
    "mask_sources rewinding stripping",
    "api",
)
EXPERIMENT = (
    "runtime",
    "settings storage",
    "data networks tracking",
    "config",
    "modes",
    "training",
    "analyses",
    "command_line",
    "jobs",
)
ANALYSIS = (
    "records",
    "similarity figures",
    "claims propagation",
    "flops report runs study sweep tickets",
)
# The parts of the house, each with its prefix; a part may import whole parts before it.
PARTS = {
    "core": ("sparse_lib", CORE),
    "experiment": ("sparse_lib.experiment", EXPERIMENT),
    "analysis": ("analysis", ANALYSIS),
}
# Rooms beside the core, with the core modules they may import.
BESIDE_CORE = {
    "measure": {
        "_keras",
        "_utils",
        "execution",
        "counting",
        "curvature",
        "gradient_flow",
        "landscape",
        "masks",
        "objective",
    },
    "recycling": {"_keras", "_utils", "dead_neurons", "initializers", "landscape", "optimizer"},
    "deployment": {"_keras", "_utils"},
    "curvature": {"_keras", "_utils", "batches", "masks", "objective"},
    "landscape": {"_keras", "_utils", "batches", "masks", "objective", "selection"},
}
SURFACE = "__init__"
RANKS = {
    part: {room: rank for rank, row in enumerate(rows) for room in row.split()} for part, (_, rows) in PARTS.items()
}
ROOMS = {part: {SURFACE, *ranks} for part, ranks in RANKS.items()}
ROOMS["core"] |= BESIDE_CORE.keys()

# Third-party modules that stay in one part of the house.
HOMES = {
    "absl.flags": {"experiment", "entry point"},
    "gin": {"experiment", "entry point"},
    "tensorflow_datasets": {"experiment", "entry point"},
    "matplotlib": {"analysis"},
    "pandas": {"analysis"},
    "seaborn": {"analysis"},
    "altair": {"analysis"},
    "vl_convert": {"analysis"},
}
IMPORTED_LATE = "tensorflow_datasets"

TESTS = sorted((ROOT / "tests").rglob("*.py"))
PRIVATE = re.compile(r"_(?!_)")
ATTRIBUTE_CALLS = ("setattr", "getattr", "delattr", "hasattr")
# Documented names: of a named tuple, where the underscore keeps them apart from its fields, and of os.
NAMEDTUPLE = ("_replace", "_asdict", "_fields", "_make", "_exit")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
IMPORTING_CALLS = ("importlib.import_module", "import_module", "__import__")


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _place(name: str) -> tuple[str, str] | None:
    """Returns the part of the house and the room there that a module, or a name imported from one, lies in."""
    for part in ("experiment", "core", "analysis"):
        prefix = PARTS[part][0]
        if _is_in(name, prefix):
            return part, name[len(prefix) + 1 :].split(".", maxsplit=1)[0] or SURFACE
    return None


def _part(module: str) -> str:
    """Returns the part of the house that a module belongs to, as `HOMES` calls it."""
    if module in ENTRY_POINTS:
        return "entry point"
    return "experiment" if _is_in(module, "sparse_lib.experiment") else module.split(".", 1)[0]


def imported_names(module: str, source: str) -> Iterator[tuple[str, int, bool]]:
    """Yields (dotted name, line, whether it runs at import time) for every import of a source text.

    `module` is the dotted name; a package's own file ends in `.__init__`.
    """
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    late = {node for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTING_CALLS:
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        for name in names:
            yield name, node.lineno, node not in late


def _may_import(importer: tuple[str, str], imported: tuple[str, str]) -> bool:
    """Says whether one room may import another; what is no room of a part is a name of its surface."""
    (part, room), (other_part, other) = importer, imported
    if part != other_part:
        return list(PARTS).index(other_part) < list(PARTS).index(part)
    other = other if other in ROOMS[part] else SURFACE
    if room in (SURFACE, other):
        return True
    if part == "core" and room in BESIDE_CORE:
        return other in BESIDE_CORE[room]
    last = len(RANKS[part])
    return RANKS[part].get(other, last) <= RANKS[part][room]


def violations(module: str, source: str) -> list[str]:
    """Returns one sentence for each import of a module that goes the wrong way."""
    place = _place(module)
    if place and place[1] not in ROOMS[place[0]]:
        return [f"{module} has no place in the house: name its room in CORE, EXPERIMENT or ANALYSIS."]
    found = []
    for name, line, at_import in imported_names(module, source):
        where = f"{module}:{line} imports {name}"
        target = _place(name)
        if any(_is_in(name, script) for script in ENTRY_POINTS):
            found.append(f"{where}: nothing imports an entry point.")
        elif _part(module) not in USERS and any(_is_in(name, user) for user in USERS):
            found.append(f"{where}: what uses the library is not imported by it.")
        elif place and target and not _may_import(place, target):
            found.append(f"{where}: imports go from the later rooms to the earlier ones.")
        for package, parts in HOMES.items():
            if _is_in(name, package) and _part(module) not in parts:
                found.append(f"{where}: {package} belongs into {' and '.join(sorted(parts))}.")
        if _is_in(name, IMPORTED_LATE) and at_import:
            found.append(f"{where}: import it inside the function that needs it.")
    return found


def house() -> dict[str, str]:
    """Returns source text by dotted module name; a package's own file is `package.__init__`."""
    files = [path for folder in SCANNED for path in sorted((ROOT / folder).rglob("*.py"))]
    files += [path for name in ENTRY_POINTS if (path := ROOT / f"{name}.py").exists()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return {name: path.read_text(encoding="utf8") for name, path in zip(names, files, strict=True)}


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Returns, for every module, the modules among `sources` that it imports."""
    modules = {name.removesuffix(".__init__"): name for name in sources}

    def owner(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return modules.get(name)

    return {
        module: {target for name, _, _ in imported_names(module, source) if (target := owner(name))} - {module}
        for module, source in sources.items()
    }


def test_the_house_is_scanned():
    assert {"sparse_lib.selection", "sparse_lib.masks"} <= set(house())


def test_imports_go_one_way():
    found = [line for module, source in house().items() for line in violations(module, source)]
    assert not found, "\n".join(found)


def test_no_cycles():
    graphlib.TopologicalSorter(import_graph(house())).prepare()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sparse_lib.updaters", "from sparse_lib import masks\nimport sparse_lib.selection"),
        ("sparse_lib.updaters", "from .masks import Masks"),
        ("sparse_lib.metainit", "from sparse_lib.objective import Objective"),
        ("sparse_lib.optimizer", "from sparse_lib._utils.distribute import merge"),
        ("sparse_lib.curvature.operators", "from ..objective import Objective"),
        ("sparse_lib.curvature.operators", "from . import lanczos"),
        ("sparse_lib.__init__", "from sparse_lib.api import sparsify"),
        ("sparse_lib.__init__", "from .curvature import spectrum"),
        ("sparse_lib.experiment.training.loop", "import gin\nfrom sparse_lib import SparseOptimizer, api"),
        ("sparse_lib.experiment.data", "def load():\n    import tensorflow_datasets as tfds"),
        ("sparse_lib.experiment.networks.lenet5", "from .. import data\nfrom . import shared"),
        ("analysis.figures", "import pandas as pd\nfrom matplotlib import pyplot"),
        (
            "analysis.report.case",
            "import sparse_lib.experiment\nfrom analysis import figures\nfrom analysis.claims import paper",
        ),
        ("sparse_lib.experiment.modes", "from sparse_lib.experiment import config, settings"),
        ("sparse_lib.experiment.jobs.demo", "from sparse_lib.experiment.training.run import train"),
        ("train", "from absl import app, flags\nimport gin"),
        ("train", "from sparse_lib.experiment import loop"),
        ("sparse_lib.masks", "import numpy as np\nfrom absl import logging\nimport training"),
    ],
)
def test_lawful_imports(module, source):
    assert violations(module, source) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sparse_lib.selection", "from sparse_lib.masks import Masks"),
        ("sparse_lib.selection", "from sparse_lib import masks"),
        ("sparse_lib.selection", "from . import masks"),
        ("sparse_lib.selection", "from .masks import Masks"),
        ("sparse_lib.selection", "def late():\n    import sparse_lib.masks"),
        ("sparse_lib.selection", "import importlib\nimportlib.import_module('sparse_lib.masks')"),
        ("sparse_lib.masks", "import sparse_lib"),
        ("sparse_lib.masks", "from sparse_lib import Masks"),
        ("sparse_lib.gradient_flow", "from sparse_lib.optimizer import SparseOptimizer"),
        ("sparse_lib.updaters", "from sparse_lib.optimizer import SparseOptimizer"),
        ("sparse_lib.optimizer", "from sparse_lib.api import sparsify"),
        ("sparse_lib.api", "from sparse_lib.experiment import loop"),
        ("sparse_lib.api", "from sparse_lib.curvature import spectrum"),
        ("sparse_lib.__init__", "from .experiment import loop"),
        ("sparse_lib.curvature.spectrum", "from sparse_lib.landscape import paths"),
        ("sparse_lib.curvature.spectrum", "from ..optimizer import SparseOptimizer"),
        ("sparse_lib.masks", "import gin"),
        ("sparse_lib.masks", "from gin.config import query"),
        ("sparse_lib.masks", "from absl import flags"),
        ("sparse_lib.masks", "import absl.flags as f"),
        ("sparse_lib.masks", "def late():\n    import tensorflow_datasets"),
        ("sparse_lib.experiment.data", "import tensorflow_datasets as tfds"),
        ("sparse_lib.experiment.data", "class Late:\n    import tensorflow_datasets as tfds"),
        ("sparse_lib.experiment.training.metrics", "import pandas"),
        ("train", "from matplotlib import pyplot"),
        ("analysis.report", "import gin"),
        ("analysis.study", "import train"),
        ("interpolate", "from train import main"),
        ("benchmarks.run", "from hessian import main"),
        ("sparse_lib.experiment.jobs.demo", "from analysis import report"),
        ("sparse_lib.experiment.storage.files", "from sparse_lib.experiment import config"),
        ("sparse_lib.experiment.training.loop", "from sparse_lib.experiment.analyses import spectra"),
        ("sparse_lib.experiment.data.dataset", "from sparse_lib.experiment.training import steps"),
        ("analysis.records.runs", "from analysis.figures import style"),
        ("analysis.similarity.cka", "from analysis.report import page"),
        ("sparse_lib.experiment.config.masks", "from sparse_lib.experiment import modes"),
        ("sparse_lib.experiment.loop", ""),
        ("analysis.tables", ""),
        ("sparse_lib.helpers", ""),
    ],
)
def test_unlawful_imports(module, source):
    assert len(violations(module, source)) == 1


def private_names(source: str) -> Iterator[str]:
    """Yields one sentence for each private name that a test reads, imports or replaces in what it tests."""
    for node in ast.walk(ast.parse(source)):
        names, whose = [], ""
        if isinstance(node, ast.Attribute):
            names, whose = [node.attr], ast.unparse(node.value)
        elif isinstance(node, ast.ImportFrom):
            names, whose = [alias.name for alias in node.names], node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ATTRIBUTE_CALLS:
            words = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            names = [word.rpartition(".")[2] for word in words]
        for name in names:
            if PRIVATE.match(name) and name not in NAMEDTUPLE and whose not in ("self", "cls"):
                yield f"line {node.lineno} reaches for {whose}.{name}"


def test_tests_use_public_names_alone():
    found = {path.name: list(private_names(path.read_text(encoding="utf8"))) for path in TESTS}
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    "source",
    [
        "fit._draws(0, 1)",
        "from sparse_lib.metainit import _Norms",
        "monkeypatch.setattr(stages, '_POLL', 0.01)",
        "monkeypatch.setattr('sparse_lib.curvature.eigenpairs._BASIS', 3)",
        "getattr(optimizer, '_tracked')",
    ],
)
def test_private_names_are_found(source):
    assert len(list(private_names(source))) == 1


@pytest.mark.parametrize(
    "source",
    ["from sparse_lib._keras import precision", "kernel._replace(mask=1)", "self._variable", "x.__init__", "_own(1)"],
)
def test_own_names_and_rooms_are_no_private_names(source):
    assert not list(private_names(source))


def imported_tests(source: str) -> set[str]:
    """Returns the test modules that a source text imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and _is_in(node.module or "", "tests"):
            found |= {part for name in node.names for part in [*node.module.split("."), name.name]}
        elif isinstance(node, ast.Import):
            found |= {part for name in node.names if _is_in(name.name, "tests") for part in name.name.split(".")}
    return {part for part in found if part.startswith("test_") or part == "conftest"}


def test_tests_import_no_tests():
    assert imported_tests("from tests.test_api import make\nimport tests.conftest") == {"test_api", "conftest"}
    assert not imported_tests("from tests.experiment import tiny")
    assert not {path.name: found for path in TESTS if (found := imported_tests(path.read_text(encoding="utf8")))}


def test_cycle_is_found():
    sources = {
        "sparse_lib.masks": "from .scores import magnitude",
        "sparse_lib.scores": "from . import masks",
    }
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(import_graph(sources)).prepare()


# Attributes of Keras and TensorFlow objects that their authors may change without notice.
PRIVATE_API = {
    "_all_reduce_sum_gradients",
    "_distribution_strategy",
    "_dtype",
    "_dtype_policy",
    "_flatten_layers",
    "_functional",
    "_inbound_nodes",
    "_inputs_struct",
    "_iterations",
    "_keras_history",
    "_layers",
    "_nodes",
    "_nodes_by_depth",
    "_operations",
    "_outbound_nodes",
    "_outputs_struct",
    "_run_through_graph",
    "_tracker",
}
PRIVATE_MODULES = ("keras.src", "tensorflow.python", "tensorflow.core")
PATCHED_MODULES = ("keras.", "tf.")


def private_uses(source: str) -> list[str]:
    """Returns the expressions of a source text that touch the private side of Keras or TensorFlow, or patch it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            is_private = node.attr in PRIVATE_API and not is_own
            is_patch = isinstance(node.ctx, ast.Store) and ast.unparse(node).startswith(PATCHED_MODULES)
            if is_private or is_patch:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            # Past an object's own __setattr__.
            if ast.unparse(node.value).endswith("__dict__"):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if any(_is_in(alias.name, m) for m in PRIVATE_MODULES)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if any(_is_in(node.module, m) for m in PRIVATE_MODULES) else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            found += [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant) and arg.value in PRIVATE_API]
    return found


def test_private_api_is_touched_in_one_room_only():
    users = {
        module: found
        for module, source in house().items()
        if not _is_in(module, "sparse_lib._keras") and (found := private_uses(source))
    }
    assert not users


@pytest.mark.parametrize(
    "source",
    [
        "layers = list(model._flatten_layers())",
        "node = self.layer._inbound_nodes[0]",
        "from keras.src.models.functional import Functional",
        "import tensorflow.python.framework as framework",
        "tf.nn.moments = moments",
        "layer.__dict__['call'] = call",
        "has_graph = hasattr(model, '_nodes_by_depth')",
    ],
)
def test_private_api_is_found(source):
    assert private_uses(source)


@pytest.mark.parametrize("source", ["self._operations = []", "keras.Model(x, y)", "kernel._replace(a=1)"])
def test_own_names_are_no_private_api(source):
    assert not private_uses(source)


def test_sums_have_one_order():
    # tf.add_n begins with whatever term it may overwrite: results then depend on timing, a killed run on luck.
    users = [name for name, source in house().items() if _is_in(name, "sparse_lib") and "add_n(" in source]
    assert not users
