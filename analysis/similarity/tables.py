"""Similarity of the finished runs of a case in function, weights and masks, as frames."""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.records import checkpoints, methods, networks
from analysis.records.checkpoints import CheckpointReader
from analysis.records.runs import IDENTITY, Runs
from analysis.similarity import cka, embedding, function, masks, weights
from sparse_lib.experiment.storage import files

TO_PARENT = ("disagreement", "kl", "js", "error_jaccard")
# More examples than units, or CKA is biased; the test split of the embedded digits has 360 (count).
_CKA_EXAMPLES = 1000
DISTANCES = ("start_l2", "end_l2", "start_cosine", "end_cosine", "moved_l2")


class Predictions(NamedTuple):
    """Predictions on the test split.

    Attributes:
      logits: [n, classes] by run.
      labels: integers [n].
    """

    logits: dict[str, np.ndarray]
    labels: np.ndarray


def load_predictions(runs: Runs) -> Predictions:
    """Reads the logits of finished runs.

    Args:
      runs: runs of one case.

    Returns:
      The logits, without runs that lack predictions.npz or have other test examples than the majority.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    finished = runs.runs[runs.runs["state"] == "finished"]
    for name, path in zip(finished["run"], finished["path"], strict=True):
        try:
            with np.load(pathlib.Path(path) / files.PREDICTIONS) as stored:
                found[name] = stored["logits"], stored["labels"]
        except (OSError, ValueError, KeyError):
            continue
    kinds: dict[bytes, list[str]] = {}
    for name, (logits, labels) in found.items():
        kinds.setdefault(labels.tobytes() + repr(logits.shape).encode(), []).append(name)
    kept = max(kinds.values(), key=len, default=[])
    return Predictions({name: found[name][0] for name in kept}, found[kept[0]][1] if kept else np.zeros(0, int))


def within_methods(runs: Runs, predicted: Predictions) -> pd.DataFrame:
    """Compares the predictions of the runs of each method, pair by pair.

    Args:
      runs: of one case.
      predicted: their logits.

    Returns:
      One row per pair: label, method, `same_masks` (whether both take the masks of one run), first, second, and the
      measures of `function.pairwise`.
    """
    frames = []
    about = runs.runs.set_index("run")
    for (label, method), group in runs.runs.groupby(["label", "method"], sort=False):
        own = {name: predicted.logits[name] for name in group["run"] if name in predicted.logits}
        frame = function.pairwise(own, predicted.labels)
        parents = [about.loc[frame[side], "parent"].to_numpy() for side in ("first", "second")]
        is_same = [a == b and isinstance(a, str) for a, b in zip(*parents, strict=True)]
        frames.append(frame.assign(label=label, method=method, same_masks=is_same))
    columns = ["label", "method", "same_masks", "first", "second", *function.PAIR_MEASURES]
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True)[columns] if filled else pd.DataFrame(columns=columns)


def to_parents(runs: Runs, predicted: Predictions) -> pd.DataFrame:
    """Compares the predictions of each run with those of the pruned network whose masks it takes.

    Args:
      runs: of one case.
      predicted: their logits.

    Returns:
      One row per run: `IDENTITY`, parent, and the measures of `TO_PARENT`.
    """
    rows = []
    for row in _rows_with_parents(runs):
        if row["run"] in predicted.logits and row["parent"] in predicted.logits:
            rows.append({**row, **_compare_functions(predicted, row["run"], row["parent"])})
    return pd.DataFrame(rows, columns=[*IDENTITY, "parent", *TO_PARENT])


def function_table(runs: Runs, predicted: Predictions) -> pd.DataFrame:
    """Similarity table of the gradient-flow paper (arXiv 2010.03533, tables 2 and 3).

    Networks are compared pair by pair if they take the masks of one pruned run, as in the paper. If no two runs of a
    method do, all its pairs are compared, and `pairs_share_masks` is false. Pruned networks are compared with those
    that other runs take their masks from.

    Args:
      runs: of one case.
      predicted: their logits.

    Returns:
      One row per method: label, method, networks and pairs (counts); mean and standard deviation of test accuracy,
      `accuracy`; accuracy and gain of the ensembles of networks of one parent (fractions); mean and standard deviation
      of every measure over pairs, and over comparisons with the pruned network as `pruned_...`.
    """
    pairs, parents = within_methods(runs, predicted), to_parents(runs, predicted)
    own_parents = set(parents["parent"])
    rows = []
    order = sorted(runs.runs["label"].unique(), key=lambda x: methods.order(_method_of(runs, x)))
    for label in order:
        group = runs.runs[(runs.runs["label"] == label) & runs.runs["run"].isin(predicted.logits)]
        if group.empty:
            continue
        own = pairs[pairs["label"] == label]
        shares = bool(own["same_masks"].any())
        own = own[own["same_masks"] == shares]
        to_pruned = parents.loc[parents["label"] == label, list(TO_PARENT)]
        if methods.base_of(_method_of(runs, label)) in methods.PRUNING:
            involved = own[own["first"].isin(own_parents) | own["second"].isin(own_parents)]
            to_pruned = involved[list(TO_PARENT)]
        accuracies = [function.accuracy(predicted.logits[name], predicted.labels) for name in group["run"]]
        rows.append(
            {
                "label": label,
                "method": _method_of(runs, label),
                "networks": len(group),
                "pairs": len(own),
                "pairs_share_masks": shares,
                **_mean_and_std("accuracy", accuracies),
                **_ensembles(group, predicted, shares=shares),
                **{k: v for m in TO_PARENT for k, v in _mean_and_std(m, own[m]).items()},
                **{k: v for m in TO_PARENT for k, v in _mean_and_std(f"pruned_{m}", to_pruned[m]).items()},
            }
        )
    return pd.DataFrame(rows)


def distances(runs: Runs, reader: CheckpointReader | None = None) -> pd.DataFrame:
    """Measures the weight distances of finished runs to the pruned network whose masks they take.

    Args:
      runs: of one case.
      reader: of the checkpoints; None takes a new one.

    Returns:
      One row per run: `IDENTITY`, parent, and `DISTANCES`: L2 and cosine distance of its first and last checkpoint to
      the last one of the parent, and the L2 distance between the two.
    """
    reader = reader or CheckpointReader()
    rows = []
    goals: dict[str, checkpoints.Values | None] = {}
    for row in _rows_with_parents(runs, finished=True):
        parent = row["parent"]
        if parent not in goals:
            goals[parent] = reader.read_weights(runs.path(parent))
        goal, start, end = goals[parent], *(reader.read_weights(path) for path in _end_checkpoints(runs, row["run"]))
        if goal is None or start is None or end is None:
            continue
        values = (
            weights.l2(start, goal),
            weights.l2(end, goal),
            weights.cosine(start, goal),
            weights.cosine(end, goal),
            weights.l2(start, end),
        )
        rows.append({**row, **dict(zip(DISTANCES, values, strict=True))})
    return pd.DataFrame(rows, columns=[*IDENTITY, "parent", *DISTANCES])


def representations(runs: Runs, reader: CheckpointReader | None = None) -> pd.DataFrame:
    """Compares finished runs with fixed masks to the pruned network up to permutation, and by their activations.

    Args:
      runs: of one case.
      reader: of the checkpoints; None takes a new one.

    Returns:
      One row per run: `IDENTITY`, parent, `matched_l2`, the L2 distance of final weights after matching hidden units
      (NaN if the layers do not form a chain), and `cka/<layer>`, linear CKA of the activations on test images.

    Raises:
      RunError: if the network or data of a run cannot be built.
    """
    reader = reader or CheckpointReader()
    rows: list[dict[str, Any]] = []
    built: networks.Built | None = None
    for row in _rows_with_parents(runs, finished=True):
        if methods.base_of(row["method"]) not in methods.STATIC:
            continue
        paths = runs.path(row["run"]), runs.path(row["parent"])
        own, goal = (reader.read_weights(path) for path in paths)
        if own is None or goal is None:
            continue
        built = built or networks.build(paths[1])
        images = built.dataset.test.images[:_CKA_EXAMPLES]
        one, other = (cka.activations(built.at(path), images) for path in paths)
        similar = {f"cka/{layer}": cka.linear_cka(features, other[layer]) for layer, features in one.items()}
        rows.append({**row, "matched_l2": _matched_l2(built, own, goal), **similar})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*IDENTITY, "parent", "matched_l2"])


def _matched_l2(built: networks.Built, own: checkpoints.Values, goal: checkpoints.Values) -> float:
    try:
        return weights.matched_l2(built.model, goal, own, restarts=1)
    except ValueError:
        return float("nan")


def embed(runs: Runs, reader: CheckpointReader | None = None) -> tuple[pd.DataFrame, float]:
    """Embeds a pruned network and the starts and ends of the runs that keep its masks in the plane.

    Args:
      runs: of one case; the pruned network with most such finished runs is taken.
      reader: of the checkpoints; None takes a new one.

    Returns:
      One row per solution: run, label, method, end ("start" or "end"), x, y; and the stress.
    """
    reader = reader or CheckpointReader()
    children = [r for r in _rows_with_parents(runs, finished=True) if methods.base_of(r["method"]) in methods.STATIC]
    parents = [row["parent"] for row in children]
    places: list[tuple[str, str, pathlib.Path]] = []
    if parents:
        parent = max(dict.fromkeys(parents), key=parents.count)
        places = [(parent, "end", runs.path(parent))]
        for row in children:
            if row["parent"] == parent:
                places += zip([row["run"]] * 2, ("start", "end"), _end_checkpoints(runs, row["run"]), strict=True)
    read = [(run, end, reader.read_weights(path)) for run, end, path in places]
    known = [(run, end, values) for run, end, values in read if values is not None]
    if len(known) < 2:
        return pd.DataFrame(columns=["run", "label", "method", "end", "x", "y"]), float("nan")
    found = embedding.mds(weights.l2_matrix([values for *_, values in known]))
    about = runs.runs.set_index("run")
    rows = [
        (run, *about.loc[run, ["label", "method"]], end, *point)
        for (run, end, _), point in zip(known, found.points, strict=True)
    ]
    return pd.DataFrame(rows, columns=["run", "label", "method", "end", "x", "y"]), found.stress


def mask_table(runs: Runs, reader: CheckpointReader | None = None) -> pd.DataFrame:
    """Measures the overlap of masks of finished runs against chance.

    Args:
      runs: of one case.
      reader: of the checkpoints; None takes a new one.

    Returns:
      One row per method and comparison: label, method, `compared` (the final masks with the first masks of the run or
      with those of other seeds), n (count), and means of iou, chance and above_chance.
    """
    reader = reader or CheckpointReader()
    bases = runs.runs["method"].map(methods.base_of)
    # Fixed masks equal those of the pruned network.
    wanted = runs.runs[(runs.runs["state"] == "finished") & ~bases.isin([*methods.DENSE, *methods.STATIC])]
    rows: list[dict[str, Any]] = []

    def compare(row: Mapping[str, Any], compared: str, one: checkpoints.Values, other: checkpoints.Values) -> None:
        total = masks.overlap(one, other).iloc[-1]
        rows.append({**{k: row[k] for k in ("label", "method")}, "compared": compared, **total.drop("layer")})

    for _, group in wanted.groupby("label"):
        read = [(row, *map(reader.read_masks, _end_checkpoints(runs, row["run"]))) for row in group.to_dict("records")]
        last = [(row, end) for row, _, end in read if end is not None]
        for row, start, end in read:
            if start is not None and end is not None and methods.base_of(row["method"]) not in methods.PRUNING:
                compare(row, "its first masks", end, start)
        for (first, one), (_, other) in itertools.combinations(last, 2):
            compare(first, "other seeds", one, other)
    frame = pd.DataFrame(rows, columns=["label", "method", "compared", "iou", "chance", "above_chance"])
    grouped = frame.groupby(["label", "method", "compared"], sort=False)
    table = grouped.mean().assign(n=grouped.size()).reset_index()
    return table.sort_values("method", key=lambda names: names.map(methods.order), kind="stable", ignore_index=True)


def survivals(runs: Runs, reader: CheckpointReader | None = None) -> pd.DataFrame:
    """Estimates the survival of grown weights in finished runs.

    Args:
      runs: of one case.
      reader: of the checkpoints; None takes a new one.

    Returns:
      `IDENTITY` and the columns of `masks.survival`.
    """
    reader = reader or CheckpointReader()
    frames = []
    kept = set(runs.mask_updates.loc[runs.mask_updates.get("grown", pd.Series(dtype=float)) > 0, "run"])
    for row in runs.runs.to_dict("records"):
        if row["run"] not in kept or row["state"] != "finished":
            continue
        steps, history = reader.read_mask_history(pathlib.Path(row["path"]))
        if len(steps) > 2:
            frames.append(masks.survival(steps, history).assign(**{column: row[column] for column in IDENTITY}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*IDENTITY, "age", "survival"])


def _rows_with_parents(runs: Runs, *, finished: bool = False) -> list[dict[str, Any]]:
    """Returns identity and parent of the runs that have one, optionally only where both are finished."""
    rows = runs.runs[runs.runs["parent"].notna()]
    if finished:
        done = runs.runs.loc[runs.runs["state"] == "finished", "run"]
        rows = rows[rows["run"].isin(done) & rows["parent"].isin(done)]
    return [{k: row[k] for k in (*IDENTITY, "parent")} for row in rows.to_dict("records")]


def _end_checkpoints(runs: Runs, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the paths of the first and the last checkpoint of a run."""
    return runs.path(name) / "ckpt-0", runs.path(name)


def _compare_functions(predicted: Predictions, one: str, other: str) -> dict[str, float]:
    a, b = predicted.logits[one], predicted.logits[other]
    both_ways = (function.kl(a, b) + function.kl(b, a)) / 2
    values = (function.disagreement(a, b), both_ways, function.jensen_shannon(a, b))
    return dict(zip(TO_PARENT, (*values, function.error_jaccard(a, b, predicted.labels)), strict=True))


def _ensembles(group: pd.DataFrame, predicted: Predictions, *, shares: bool) -> dict[str, float]:
    """Returns accuracy and gain of the ensembles, averaged over parents."""
    families = [own["run"] for _, own in group.groupby("parent")] if shares else [group["run"]]
    members = [[predicted.logits[name] for name in names] for names in families if len(names) > 1]
    if not members:
        return {"ensemble": np.nan, "ensemble_gain": np.nan}
    return {
        "ensemble": float(np.mean([function.ensemble_accuracy(m, predicted.labels) for m in members])),
        "ensemble_gain": float(np.mean([function.ensemble_gain(m, predicted.labels) for m in members])),
    }


def _mean_and_std(name: str, values: Any) -> dict[str, float]:
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    mean = float(np.mean(kept)) if len(kept) else np.nan
    return {name: mean, f"{name}_std": float(np.std(kept, ddof=1)) if len(kept) > 1 else np.nan}


def _method_of(runs: Runs, label: str) -> str:
    return str(runs.runs.loc[runs.runs["label"] == label, "method"].iloc[0])
