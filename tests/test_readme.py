"""Every command and every Python block of the documents runs.

The Python blocks of a page run one after the other, each with the names of those before it. A block of text right after
one is what it prints.

The other blocks are given to bash as they stand, in a folder that looks like a checkout. `python`, `make` and
`tensorboard` are stand-ins there: the fast tests note and check what they are asked for, the slow ones train,
shortened. Fragments, which stand as `py`, get the names that they leave to the reader.
"""

import contextlib
import copy
import importlib.util
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import gin
import keras
import pytest
import tensorflow_datasets as tfds
from absl import flags

import sparse_lib
import train
from sparse_lib import updaters
from sparse_lib.experiment.config import gin_files, mask_updates
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.structures import NM, ConstantFanIn
from tests.documents import ROOT, run_fragments
from tests.experiment.data.prepared import pictures, prepare

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
# A backslash ends each line of a command but its last.
TYPED = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
DECIMAL = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
# Of a run that is long enough for the rewound ticket, which needs its step 500, and has a mask update or two.
SHORT = [
    "training.total_steps=500",
    "training.batch_size=4",
    "training.log_freq=250",
    "training.save_freq=100",
    "pruning.begin_step=100",
    "pruning.end_step=400",
    "pruning.frequency=100",
]
# Steps whose checkpoints a shortened run has.
COPIED = (0, 200, 500)
# One write each: commands that end in `&` note themselves side by side.
NOTE = """#!/bin/bash
printf -v line '%s\\n' "$@" --end--
printf '%s' "$line" >> commands
"""
TRAIN = f"""#!{sys.executable}
import os, sys
words = sys.argv[1:]
if words[0] == "train.py":
    words += [f"--gin_bindings={{binding}}" for binding in {SHORT!r}]
    if not any(word.startswith("--logdir=") for word in words):
        words.append("--logdir=runs/default")
if "--mode=instability" in words:
    words.append("--gin_bindings=instability.steps={COPIED}")
status = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, *words])
if status:
    # A command in the background has no other way to tell.
    with open("failures", "a") as file:
        print(*words, file=file)
sys.exit(status)
"""
# Prepared sets stand in for the downloads.
DOWNLOADS = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
MAKE = '#!/bin/sh\nexec "{make}" --dry-run "$@" > /dev/null\n'
TENSORBOARD = f'#!/bin/sh\nexec "{sys.executable}" -m tensorboard.main --inspect "$@"\n'


# Of these only the slow tests run the Python blocks.
LONG = (
    "deployment.md",
    "first_steps.md",
    "hessian.md",
    "interpolation.md",
    "published_checkpoints.md",
    "tickets.md",
    "trained_model.md",
)


def place(document: pathlib.Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks(document: pathlib.Path) -> list[tuple[str, str]]:
    """Returns language and text of each block to run; of a console's, only what was typed."""
    found = []
    for language, text in BLOCK.findall(document.read_text(encoding="utf8")):
        if language == "console":
            found.append(("bash", "\n".join(TYPED.findall(text))))
        elif language in ("bash", "python"):
            found.append((language, text))
    return found


def checkout(folder: pathlib.Path, python: str) -> dict[str, str]:
    """Makes a folder that looks like a checkout, with stand-ins for what the documents call.

    Returns the environment in which blocks run.
    """
    scripts = (
        "train.py",
        "hessian.py",
        "interpolate.py",
        "analysis",
        "examples",
        *(p.name for p in ROOT.glob("*configs")),
    )
    for name in (*scripts, "sparse_lib", "requirements", "Makefile", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", folder / "docs")
    programs = folder / "bin"
    programs.mkdir()
    stand_ins = {"python": python, "make": MAKE.format(make=shutil.which("make")), "tensorboard": TENSORBOARD}
    for name, text in stand_ins.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TFDS_DATA_DIR": str(folder / "tfds"),
        "SPARSE_LIB_CACHE": str(folder / "cache"),
        "MAKEFLAGS": "",
    }


def bash(text: str, folder: pathlib.Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def check_training(words: list[str]) -> None:
    """Asserts that a command line of train.py has the flags and settings that there are."""
    train.define_mode()
    values = copy.deepcopy(flags.FLAGS)
    values(words)
    gin.clear_config()
    registered = dict(updaters.REGISTRY)
    try:
        mask_updates.import_modules(values.updater_module)
        # No download: the other data sets have tests of their own.
        instead = ["data.name='digits'", "data.preprocessing='auto'", "data.augmentation='auto'", "data.on_disk=None"]
        gin_files.parse(values.gin_config, [*values.gin_bindings, *instead])
        Experiment.from_gin()
    finally:
        gin.clear_config()
        updaters.REGISTRY.clear()
        updaters.REGISTRY.update(registered)
        for name in values.updater_module:
            sys.modules.pop(name, None)


def noted(folder: pathlib.Path) -> list[list[str]]:
    """Returns the command lines of `python` that the stand-in noted."""
    text = (folder / "commands").read_text() if (folder / "commands").exists() else ""
    return [part.splitlines() for part in text.split("--end--\n") if part]


# A small dense twin of a large network is slow to find.
COMMANDS = [pytest.param(p, marks=[pytest.mark.slow] * (p.name == "flops.md"), id=place(p)) for p in DOCUMENTS]


@pytest.mark.parametrize("document", COMMANDS)
def test_commands_ask_for_what_there_is(document, tmp_path, monkeypatch):
    environment = checkout(tmp_path, NOTE)
    (tmp_path / "bin" / "tensorboard").write_text("#!/bin/sh\n")
    for language, text in blocks(document):
        if language == "bash":
            bash(text, tmp_path, environment)
    monkeypatch.chdir(tmp_path)
    for words in noted(tmp_path):
        if words[0] == "-c":
            compile(words[1], shlex.join(words), "exec")
        elif words[0] == "-m":
            assert importlib.util.find_spec(words[1]), words
        else:
            assert pathlib.Path(words[0]).exists(), words
        if words[0] == "train.py":
            check_training(words)


def test_the_first_screen_has_the_two_commands():
    top = (ROOT / "README.md").read_text(encoding="utf8").split("\n## ")[0]
    assert top.index("$ make demo") < top.index("$ make quick")


def check_printed(printed: str, shown: str) -> None:
    """Asserts that words and counts are as shown, and decimals as near as another processor comes."""
    assert DECIMAL.sub("0.0", printed).split() == DECIMAL.sub("0.0", shown).split(), printed
    found, wanted = ([float(number) for number in DECIMAL.findall(text)] for text in (printed, shown))
    assert found == pytest.approx(wanted, rel=0.1, abs=0.02), printed


PAGES = [pytest.param(page, marks=[pytest.mark.slow] * (page.name in LONG), id=place(page)) for page in DOCUMENTS]


@pytest.mark.parametrize("document", PAGES)
def test_python_blocks_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for text, shown in PYTHON.findall(document.read_text(encoding="utf8")):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(text, document.name, "exec"), names)
        if shown:
            check_printed(printed.getvalue(), shown)


def network_of_the_structures_page() -> keras.Model:
    """Has a kernel for every rule on the page."""
    layers = keras.layers
    image, tokens = keras.Input((8, 8, 1)), keras.Input((4,))
    seen = layers.Flatten()(layers.Conv2D(4, 3, name="conv1")(image))
    seen = layers.Dense(80, name="block0")(seen)
    read = layers.Embedding(10, 8, name="embedding")(tokens)
    read = layers.Dense(8, name="linear")(layers.MultiHeadAttention(2, 4, name="attention")(read, read))
    read = keras.Sequential([keras.Input((4, 8)), layers.Dense(8)], name="encoder")(read)
    both = layers.Concatenate()([seen, layers.Flatten()(read)])
    logits = layers.Dense(4, name="logits")(layers.Dense(16, name="dense_1")(both))
    return keras.Model([image, tokens], logits)


def test_fragments_about_structures_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {
        "keras": keras,
        "re": re,
        "sparse_lib": sparse_lib,
        "model": network_of_the_structures_page(),
        "other_model": network_of_the_structures_page(),
        "inner": keras.optimizers.SGD(0.1),
    }
    run_fragments(ROOT / "docs" / "structures.md", names)
    assert "attention" in capsys.readouterr().out
    assert names["optimizer"].masks is not names["masks"]
    # The first kernel has the two heads as outputs; a file keeps that.
    assert names["masks"].structures[0] == ConstantFanIn(outputs=(1, 2))
    sparse_lib.sparsify(names["model"], structure=NM(2, 4)).save("ticket.npz")
    assert sparse_lib.transfer_masks("ticket.npz", names["other_model"]).structures[0] == NM(2, 4, outputs=(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=place)
def test_everything_runs(document, tmp_path, monkeypatch):
    environment = checkout(tmp_path, TRAIN)
    for name, shape in DOWNLOADS.items():
        images = {"train": pictures(60, shape, seed=0), "test": pictures(20, shape, seed=1)}
        version = str(tfds.builder_cls(name).VERSION)
        prepare(tmp_path / "tfds", name, images, shape=shape, classes=10, version=version)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for language, text in blocks(document):
        if language == "python":
            exec(compile(text, document.name, "exec"), names)
        else:
            bash(text, tmp_path, environment)
    failures = tmp_path / "failures"
    assert not failures.exists(), failures.read_text()
    for result in (tmp_path / "runs").rglob("operative_config.gin"):
        assert (result.parent / "result.json").exists(), result
