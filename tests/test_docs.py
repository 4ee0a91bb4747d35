"""The documents say what is so: settings, modes, measurements, links."""

import json
import pathlib
import re

import gin
import pytest

import sparse_lib
from docs import make_configuration, make_pictures
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import plan_run

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TINY = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(16, 8)",
    "training.total_steps=30",
    "training.log_freq=10",
    "training.batch_size=16",
    "masks.sparsity=0.8",
    "mask_updater.update_alg='rigl'",
    "mask_updater.update_freq=10",
    "optimizer.name='momentum'",
]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> pathlib.Path:
    """Returns the directory of a RigL run of 30 steps."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    gin.clear_config()
    try:
        gin_files.parse([], TINY)
        experiment = Experiment.from_gin()
        run.train(plan_run(experiment), directory, gin.operative_config_str())
    finally:
        gin.clear_config()
    return directory


def records(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table_keys(heading: str) -> list[str]:
    """Returns the first cells of the tables under a heading of measurements.md."""
    text = (ROOT / "docs" / "measurements.md").read_text(encoding="utf8")
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def pattern(key: str) -> re.Pattern:
    """Returns what a documented key stands for."""
    places = {
        "<kernel>": r"[\w/]+/kernel",
        "<variable>": r"[\w/]+/\w+",
        "<layer>": r"\w+",
        "<slot>": "(momentum|velocity)",
    }
    text = re.escape(key)
    for place, meaning in places.items():
        text = text.replace(re.escape(place), meaning)
    return re.compile(text)


@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl", "mask_updates.jsonl", "result.json"])
def test_every_measurement_is_documented_and_the_other_way_round(tiny_run, file):
    path = tiny_run / file
    written = records(path) if file.endswith("jsonl") else [json.loads(path.read_text())]
    found = {key for record in written for key in record}
    documented = table_keys(file)
    assert len(documented) == len(set(documented))
    patterns = {key: pattern(key) for key in documented}
    assert [key for key in found if not any(p.fullmatch(key) for p in patterns.values())] == []
    assert [key for key, p in patterns.items() if not any(p.fullmatch(f) for f in found)] == []


def test_what_is_said_of_log_steps(tiny_run):
    metrics = records(tiny_run / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [0, 10, 20, 30]
    assert "train_loss" not in metrics[0]
    assert all("train_loss" in m for m in metrics[1:])


@pytest.mark.slow
def test_pictures_are_up_to_date(tmp_path):
    for name in make_pictures.PICTURES:
        drawn = make_pictures.save(name, tmp_path)
        assert (make_pictures.FOLDER / drawn.name).read_bytes() == drawn.read_bytes(), (
            "run `python -m docs.make_pictures`"
        )


def test_every_picture_is_shown():
    shown = {name for path in DOCUMENTS for name in re.findall(r"\]\(pictures/(\w+)\.svg\)", path.read_text("utf8"))}
    assert shown == {path.stem for path in make_pictures.FOLDER.iterdir()} == set(make_pictures.PICTURES)


def test_every_example_is_shown():
    included = re.findall(
        r'^--8<-- "examples/(\w+\.py)"$', "".join(p.read_text("utf8") for p in DOCUMENTS), re.MULTILINE
    )
    assert sorted(included) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_configuration_page_is_up_to_date():
    page = make_configuration.page()
    hint = "run `python -m docs.make_configuration`"
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf8") == page, hint


def test_configuration_page_has_every_setting(tiny_run):
    rows = re.findall(r"^\| `([\w.]+)` \| .*? \| `(.*?)` \|", make_configuration.page(), re.MULTILINE)
    defaults = dict(rows)
    assert set(defaults) == {f"{name}.{p}" for name, ps in gin_names.parameters().items() for p in ps}
    # What a run really has, where nothing is bound, is what the page calls the default.
    text = (tiny_run / "operative_config.gin").read_text()
    operative = dict(re.findall(r"^(\w+\.\w+) = (.*)$", text, re.MULTILINE))
    bound = {binding.split("=")[0] for binding in TINY}
    assert len(operative) > 50
    for name, value in operative.items():
        if name not in bound:
            assert defaults[name] == value, name


def test_every_mode_is_in_the_readme():
    rows = re.findall(r"^\| .* \| (`.*\.gin`) \|", (ROOT / "README.md").read_text(encoding="utf8"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+\.gin)`", row)]
    for folder in ("configs", "mlp_configs"):
        assert sorted(path.name for path in (ROOT / folder).glob("*.gin")) == sorted([*named, "base.gin"])


def anchors(text: str) -> set[str]:
    """Returns the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf8")), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_settings_that_are_named_exist(document):
    known = gin_names.parameters()
    # `masks.save` is a method, as the guides call them.
    known["masks"] = {*known["masks"], *dir(sparse_lib.Masks([]))}
    text = document.read_text(encoding="utf8")
    named = re.findall(rf"(?<![\w./])({'|'.join(known)})\.(?!gin|md|py|csv|json|npz|keras)(\w+)\b(?!\()", text)
    assert [f"{name}.{p}" for name, p in named if p not in known[name]] == []


def test_make_quick_names_tests_that_there_are():
    (named,) = re.findall(r"^QUICK := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
    paths = named.replace("\\", "").split()
    assert len(paths) > 15 and [path for path in paths if not (ROOT / path).exists()] == []
