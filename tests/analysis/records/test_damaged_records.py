"""One damaged file never takes the tables of the others: it becomes a note that names it."""

import json

import numpy as np
import pytest

from analysis.records import landscapes, spectra
from analysis.records.runs import load_runs
from tests.experiment.mutations import mutations

# Each copy is read with everything beside it; test_damaged_files.py gives each reader a thousand.
COUNTS = [12, pytest.param(60, marks=pytest.mark.slow)]
BARRIER = {"loss": {"above_line": {"height": 0.5, "coefficient": 0.5}}}
SUMMARY = {"lambda_max": 1.5, "lambda_min": -1.0, "negative": 3, "trace": 2.0, "method": "exact"}


@pytest.fixture
def runs(write_run):
    """Two runs, and every kind of analysis of the first one; returns their common directory."""
    run, other = write_run("rigl_plus", 0, changes=[0.5]), write_run("dense", 0)
    described = {"target_sparsity": 0.9, "seed": 0, "total_steps": 100}
    described |= dict.fromkeys(("method", "label", "setting", "network", "data", "mask_source"), "rigl")
    (run / "run.json").write_text(json.dumps(described))
    (run / "hessian").mkdir()
    (run / "hessian" / "ckpt-5.json").write_text(json.dumps(SUMMARY))
    np.savez(run / "hessian" / "ckpt-5.npz", eigenvalues=np.arange(3.0))
    (run / "hessian" / "mask_updates.jsonl").write_text('{"step": 5, "lambda_max_change": 0.5}\n' * 2)
    path = {"start": f"{run}/ckpt-5", "end": f"{other}/ckpt-5", "settings": {}, "barrier": {"test": BARRIER}}
    (run / "interpolation.json").write_text(json.dumps(path))
    (run / "interpolation.csv").write_text("coefficient,split,loss,accuracy\n0.0,test,1.5,0.5\n1.0,test,0.5,0.7\n")
    np.savez(run / "surface.npz", xs=np.arange(3.0), ys=np.arange(2.0), loss_test=np.ones((2, 3)))
    mark = {"checkpoint": f"{run}/ckpt-5", "coordinates": [0.0, 0.0]}
    (run / "surface.json").write_text(json.dumps({"solutions": [mark]}))
    (run / "instability.csv").write_text("step,split,error_barrier\n5,test,0.1\n")
    (run / "instability.json").write_text(json.dumps({"run": str(run)}))
    return run.parent


def load(top):
    """Everything that a report reads, with its notes."""
    loaded = load_runs(top)
    notes = list(loaded.notes)
    tables = (
        landscapes.load_paths([top], loaded, notes),
        landscapes.load_pictures([top], loaded, notes),
        landscapes.load_instability([top], loaded, notes),
        spectra.load(loaded, notes),
    )
    for directory in loaded.runs["path"]:
        spectra.read_spectrum(top / directory, 5)
    assert all("\n" not in note and note.endswith(".") for note in notes)
    return loaded, tables, notes


def test_intact_files_leave_no_note(runs):
    loaded, (paths, pictures, instability, measured), notes = load(runs)
    assert notes == [] and len(loaded.runs) == 2
    assert len(paths.points) == len(measured.updates) == 2
    assert len(paths.barriers) == len(pictures) == len(instability) == len(measured.summaries) == 1


FILES = ["metrics.jsonl", "mask_updates.jsonl", "result.json", "operative_config.gin", "run.json"]
FILES += ["hessian/ckpt-5.json", "hessian/ckpt-5.npz", "hessian/mask_updates.jsonl", "interpolation.json"]
FILES += ["interpolation.csv", "surface.npz", "surface.json", "instability.csv", "instability.json"]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_becomes_a_note(name, count, runs):
    path = next(iter(runs.glob(f"rigl_plus/{name}")))
    content = path.read_bytes()
    noted = 0
    for mutated in mutations(content, count=count):
        path.write_bytes(mutated)
        loaded, _, notes = load(runs)
        assert len(loaded.runs) == 2 and "dense" in set(loaded.runs["method"])
        assert all(str(path) in note or path.stem in note for note in notes), notes
        noted += bool(notes)
        assert path.read_bytes() == mutated
    # The arrays of a spectrum are read by its figure, and any text is a configuration or leaves lines that are one.
    assert noted or name in ("hessian/ckpt-5.npz", "operative_config.gin")
    path.unlink()
    path.mkdir()
    assert len(load(runs)[0].runs) >= 1
