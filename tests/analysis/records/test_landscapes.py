"""What interpolate.py has written, as frames."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest

from analysis.records import landscapes
from analysis.records.runs import load_runs


def top(directory: pathlib.Path) -> pathlib.Path:
    return next(parent for parent in directory.parents if parent.name == "runs")


def write_path(folder: pathlib.Path, start: str, end: str, losses: list[float], **summary) -> None:
    folder.mkdir(parents=True)
    places = np.linspace(0, 1, len(losses))
    rows = [f"{a},train,{loss},{1 - loss / 10}" for a, loss in zip(places, losses, strict=True)]
    (folder / "interpolation.csv").write_text("\n".join(["coefficient,split,loss,accuracy", *rows]))
    peak = {"above_mean": {"height": 0.2}, "above_line": {"height": 0.1}, "above_higher_end": {"height": 0.05}}
    written = {"start": start, "end": end, "path": "line", "barrier": {"train": {"loss": peak}}, **summary}
    (folder / "interpolation.json").write_text(json.dumps(written))


@pytest.fixture
def two_runs(write_run):
    """Returns the directories of a pruned network and its ticket."""
    return write_run("prune", 0), write_run("lottery", 0)


def test_a_path_to_the_pruned_network(two_runs):
    pruned, ticket = two_runs
    write_path(top(pruned) / "paths" / "end", f"{ticket}/ckpt-100", f"{pruned}/ckpt-100", [1.0, 3.0, 2.0])
    runs = load_runs(top(pruned))
    assert set(runs.runs["run"]) == {"0/prune", "0/lottery"}
    points, barriers = landscapes.load_paths([top(pruned)], runs)
    assert points[["coefficient", "loss"]].to_numpy().tolist() == [[0, 1], [0.5, 3], [1, 2]]
    row = points.iloc[0]
    assert (row["label"], row["other"], row["to_parent"], row["from_start"]) == ("Lottery", "0/prune", True, False)
    assert barriers[["split", "quantity"]].to_numpy().tolist() == [["train", "loss"]]
    assert barriers["above_higher_end"].item() == 0.05
    assert np.isnan(barriers["largest_rise"].item())


def test_a_path_from_the_pruned_network_is_turned_around(two_runs):
    pruned, ticket = two_runs
    write_path(top(pruned) / "paths", f"{pruned}/ckpt-100", f"{ticket}/ckpt-0", [2.0, 3.0, 1.0])
    points, _ = landscapes.load_paths([top(pruned)], load_runs(top(pruned)))
    assert points.sort_values("coefficient")["loss"].tolist() == [1.0, 3.0, 2.0]
    assert points["label"].unique().tolist() == ["Lottery"]
    assert points["from_start"].all()


def test_curves_and_matched_paths_have_a_name_of_their_own(two_runs):
    pruned, ticket = two_runs
    ends = f"{ticket}/ckpt-100", f"{pruned}/ckpt-100"
    write_path(top(pruned) / "a", *ends, [1.0, 1.0], path="quadratic")
    write_path(top(pruned) / "b", *ends, [1.0, 1.0], settings={"match": True})
    points, _ = landscapes.load_paths([top(pruned)], load_runs(top(pruned)))
    assert set(points["label"]) == {"Lottery, quadratic curve", "Lottery, matched"}


def test_unfinished_damaged_and_foreign_paths(two_runs):
    pruned, ticket = two_runs
    write_path(top(pruned) / "a", f"{ticket}/ckpt-100", f"{pruned}/ckpt-100", [1.0, 2.0], barrier=None)
    write_path(top(pruned) / "b", "/elsewhere/x/ckpt-1", f"{pruned}/ckpt-100", [1.0, 2.0])
    (top(pruned) / "c").mkdir()
    (top(pruned) / "c" / "interpolation.json").write_text("{")
    points, barriers = landscapes.load_paths([top(pruned)], load_runs(top(pruned)))
    assert len(points) == 2
    assert barriers.empty


def test_nothing_there(tmp_path):
    runs = load_runs(tmp_path)
    points, barriers = landscapes.load_paths([tmp_path], runs)
    assert points.empty
    assert barriers.empty
    assert {"to_parent", "coefficient"} <= set(points.columns)
    assert landscapes.load_pictures([tmp_path], runs) == []
    assert landscapes.load_instability([tmp_path], runs).empty


def test_pictures(two_runs):
    pruned, _ = two_runs
    folder = top(pruned) / "plane"
    folder.mkdir()
    np.savez(
        folder / "plane.npz", xs=[0.0, 1.0], ys=[0.0], done=[True], loss_train=[[0.1, 0.2]], accuracy_train=[[1, 1]]
    )
    solutions = [
        {"checkpoint": f"{pruned}/ckpt-100", "coordinates": [0.0, 0.0]},
        {"checkpoint": "/elsewhere/thing/ckpt-7", "coordinates": [1.0, 2.0]},
    ]
    (folder / "plane.json").write_text(json.dumps({"solutions": solutions}))
    (top(pruned) / "surface.npz").write_bytes(b"nothing")
    (picture,) = landscapes.load_pictures([top(pruned)], load_runs(top(pruned)))
    assert (picture.kind, list(picture.loss)) == ("plane", ["train"])
    assert picture.marks["name"].tolist() == ["Pruning", "thing"]
    assert picture.marks["step"].tolist() == [100, 7]


def test_instability(two_runs):
    pruned, _ = two_runs
    frame = pd.DataFrame({"step": [0, 5], "split": ["test", "test"], "error_barrier": [0.1, 0.0]})
    frame.to_csv(top(pruned) / "instability.csv", index=False)
    (top(pruned) / "instability.json").write_text(json.dumps({"run": str(pruned)}))
    loaded = landscapes.load_instability([top(pruned)], load_runs(top(pruned)))
    assert loaded["label"].tolist() == ["Pruning", "Pruning"]
    assert loaded["error_barrier"].tolist() == [0.1, 0.0]
