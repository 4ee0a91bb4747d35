"""What hessian.py has written, as frames."""

import json
import pathlib

import numpy as np

from analysis.records import spectra
from analysis.records.runs import load_runs


def top(directory: pathlib.Path) -> pathlib.Path:
    return next(parent for parent in directory.parents if parent.name == "runs")


def write_spectra(directory: pathlib.Path) -> None:
    folder = directory / "hessian"
    folder.mkdir()
    for number, values in ((0, [-1.0, 0.0, 5.0]), (-4, [0.0, 1.0, 2.0]), (-5, [-3.0, 1.0, 9.0])):
        np.savez(folder / f"ckpt-{number}.npz", eigenvalues=values)
        summary = {"method": "exact, rows", "step": abs(number), "lambda_max": values[-1], "lambda_min": values[0]}
        (folder / f"ckpt-{number}.json").write_text(json.dumps({**summary, "negative": 1, "errors": {}}))
    np.savez(folder / "ckpt-10.npz", grid=[0.0, 1.0], density=[0.5, 0.5])
    (folder / "ckpt-10.json").write_text('{"lambda_max": 1')
    change = {"step": 5, "lambda_max_change": 7.0, "lambda_min_change": -3.0, "negative_change": 1}
    (folder / "mask_updates.jsonl").write_text(json.dumps(change) + "\n")


def test_summaries_and_changes(write_run):
    directory = write_run("rigl_plus", 0)
    write_spectra(directory)
    loaded = spectra.load(load_runs(top(directory)))
    assert loaded.summaries[["number", "step", "lambda_max"]].to_numpy().tolist() == [[-4, 4, 2], [-5, 5, 9], [0, 0, 5]]
    assert set(loaded.summaries["method"]) == {"rigl.plus"}
    assert set(loaded.summaries["estimator"]) == {"exact, rows"}
    assert loaded.updates[["step", "negative_change"]].to_numpy().tolist() == [[5, 1]]


def test_arrays(write_run):
    directory = write_run("rigl_plus", 0)
    write_spectra(directory)
    assert spectra.read_spectrum(directory, -5).tolist() == [-3, 1, 9]
    grid, density = spectra.read_spectrum(directory, 10)
    assert (grid.tolist(), density.tolist()) == ([0, 1], [0.5, 0.5])
    assert spectra.read_spectrum(directory, 77) is None


def test_runs_without_spectra(write_run, tmp_path):
    loaded = spectra.load(load_runs(top(write_run("rigl_plus", 0))))
    assert loaded.summaries.empty
    assert {"lambda_max", "number"} <= set(loaded.summaries.columns)
    assert loaded.updates.empty
