"""Every notebook runs from top to bottom, each in a separate process."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "analysis" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONG = (
    "first_sparse_network",
    "gradient_flow",
    "hessian_spectra",
    "loss_landscapes",
    "lottery_tickets",
    "your_own_model",
)


def cells(notebook: pathlib.Path, kind: str) -> list[str]:
    read = json.loads(notebook.read_text(encoding="utf8"))
    return ["".join(cell["source"]) for cell in read["cells"] if cell["cell_type"] == kind]


def test_there_is_one_for_each_subject():
    assert len(NOTEBOOKS) >= 7


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_opens_with_what_it_shows_and_keeps_no_outputs(notebook):
    read = json.loads(notebook.read_text(encoding="utf8"))
    assert read["cells"][0]["cell_type"] == "markdown"
    assert cells(notebook, "markdown")[0].startswith("# ")
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in read["cells"])


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in NOTEBOOKS],
)
def test_it_runs(notebook):
    environment = {**os.environ, "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PYTHONPATH"] = str(FOLDER.parents[1])
    code = "\n".join(cells(notebook, "code"))
    done = subprocess.run(
        [sys.executable, "-"], input=code, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
