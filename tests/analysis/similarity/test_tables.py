"""Tables of similarity, from run directories with chosen predictions, weights and masks."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from analysis.records.runs import Runs, load_runs
from analysis.similarity import tables
from sparse_lib.experiment.storage.checkpoints import Checkpoints


def top(directory: pathlib.Path) -> pathlib.Path:
    return next(parent for parent in directory.parents if parent.name == "runs")


def case_of(directory: pathlib.Path) -> Runs:
    ((_, _, case),) = load_runs(top(directory)).cases()
    return case


def save(directory: pathlib.Path, step: int, weights: list[float], active: list[int]) -> None:
    """A checkpoint of one kernel of four weights."""
    mask = np.zeros(4, bool)
    mask[active] = True
    state = {
        "model": {"mlp/dense1/kernel": tf.Variable(np.array(weights, np.float32))},
        "masks": {"dense1/kernel": tf.Variable(mask)},
    }
    Checkpoints(directory, state, keep=None, network="mlp").save(step)


def table_of(directory: pathlib.Path) -> dict[str, dict]:
    case = case_of(directory)
    table = tables.function_table(case, tables.load_predictions(case))
    return {row["label"]: row for row in table.to_dict("records")}


def test_the_papers_table_by_hand(write_run):
    write_run("prune", 0, wrong=[0, 1])
    write_run("prune", 1, wrong=[1, 2, 3])
    write_run("lottery", 0, pruned="0/prune", wrong=[0])
    directory = write_run("lottery", 1, pruned="0/prune", wrong=[0, 4])
    rows = table_of(directory)
    ticket, pruned = rows["Lottery"], rows["Pruning"]
    assert (ticket["networks"], ticket["pairs"], ticket["pairs_share_masks"]) == (2, 1, True)
    assert ticket["accuracy"] == pytest.approx((39 + 38) / 2 / 40)
    assert ticket["accuracy_std"] == pytest.approx(np.std([39 / 40, 38 / 40], ddof=1))
    # They differ on image 4; from the pruned one on 1, and on 1 and 4.
    assert ticket["disagreement"] == pytest.approx(1 / 40)
    assert ticket["pruned_disagreement"] == pytest.approx((1 + 2) / 2 / 40)
    assert ticket["error_jaccard"] == pytest.approx(1 / 2)
    # Pruned networks: 0 against 1 differ on 0, 2, 3; only pruned network 0 has tickets.
    assert pruned["disagreement"] == pytest.approx(3 / 40)
    assert pruned["pruned_disagreement"] == pytest.approx(3 / 40)
    assert not pruned["pairs_share_masks"]
    assert list(rows) == ["Pruning", "Lottery"]


def test_tickets_of_several_networks_are_compared_within_each(write_run):
    for seed in (0, 1):
        write_run("prune", seed, wrong=[seed])
        for copy in (0, 1):
            directory = write_run(
                "lottery", 2 * seed + copy, pruned=f"{seed}/prune", name=f"{seed}/{copy}", wrong=[10 + seed, 20 + copy]
            )
    row = table_of(directory)["Lottery"]
    # Pairs across networks would differ on images 10 and 11 as well.
    assert row["pairs"] == 2
    assert row["disagreement"] == pytest.approx(2 / 40)


def test_networks_of_different_masks_are_marked(write_run):
    for seed in (0, 1):
        write_run("prune", seed, wrong=[])
        directory = write_run("lottery", seed, wrong=[seed])
    row = table_of(directory)["Lottery"]
    assert not row["pairs_share_masks"]
    assert row["disagreement"] == pytest.approx(2 / 40)


def test_ensemble_of_a_family(write_run):
    write_run("prune", 0, wrong=[])
    for seed in range(3):
        directory = write_run("lottery", seed, pruned="0/prune", wrong=[seed])
    row = table_of(directory)["Lottery"]
    assert row["ensemble"] == 1.0
    assert row["ensemble_gain"] == pytest.approx(1 / 40)


def test_other_test_sets_and_damaged_files_are_left_out(write_run):
    write_run("prune", 0, wrong=[])
    write_run("prune", 1, wrong=[1])
    other = write_run("prune", 2, wrong=[])
    np.savez(other / "predictions.npz", logits=np.zeros((3, 4)), labels=np.zeros(3, int))
    (write_run("prune", 3, wrong=[]) / "predictions.npz").write_bytes(b"nothing")
    case = case_of(other)
    assert set(tables.load_predictions(case).logits) == {"0/prune", "1/prune"}


def test_no_predictions_no_rows(write_run):
    case = case_of(write_run("prune", 0))
    predicted = tables.load_predictions(case)
    assert tables.function_table(case, predicted).empty
    assert tables.within_methods(case, predicted).empty
    assert tables.to_parents(case, predicted).empty


def test_distances_by_hand(write_run):
    pruned, ticket = write_run("prune", 0), write_run("lottery", 0)
    save(pruned, 0, [9, 9, 9, 9], [0, 1, 2, 3])
    save(pruned, 100, [3, 4, 0, 0], [0, 1])
    save(ticket, 0, [0, 0, 0, 0], [0, 1])
    save(ticket, 100, [3, 0, 0, 0], [0, 1])
    unfinished = write_run("scratch", 0, finished=False)
    save(unfinished, 0, [1, 1, 0, 0], [0, 1])
    rows = tables.distances(case_of(ticket))
    assert list(rows["run"]) == ["0/lottery"]
    values = rows.iloc[0]
    assert (values["start_l2"], values["end_l2"], values["moved_l2"]) == (5.0, 4.0, 3.0)
    assert np.isnan(values["start_cosine"])
    assert values["end_cosine"] == pytest.approx(1 - 3 / 5)


def test_embedding_keeps_distances_to_the_pruned_network(write_run):
    pruned, ticket, moving = write_run("prune", 0), write_run("lottery", 0), write_run("rigl_plus", 0)
    save(pruned, 100, [3, 4, 0, 0], [0, 1])
    for directory in (ticket, moving):
        save(directory, 0, [0, 0, 0, 0], [0, 1])
        save(directory, 100, [3, 0, 0, 0], [0, 1])
    frame, stress = tables.embed(case_of(ticket))
    assert list(zip(frame["run"], frame["end"], strict=True)) == [
        ("0/prune", "end"),
        ("0/lottery", "start"),
        ("0/lottery", "end"),
    ]
    points = frame[["x", "y"]].to_numpy()
    assert [np.linalg.norm(points[0] - p) for p in points] == pytest.approx([0, 5, 4], abs=1e-3)
    assert stress < 1e-3


def test_embedding_of_nothing(write_run):
    frame, stress = tables.embed(case_of(write_run("lottery", 0)))
    assert frame.empty
    assert np.isnan(stress)


def test_overlap_of_masks_by_hand(write_run):
    for seed, active in ((0, [0, 1]), (1, [1, 2])):
        pruned, moving = write_run("prune", seed), write_run("rigl_plus", seed, changes=[1.0])
        save(pruned, 100, [1, 1, 1, 1], active)
        save(moving, 0, [1, 1, 1, 1], active)
        save(moving, 100, [1, 1, 1, 1], [2, 3])
    table = tables.mask_table(case_of(moving)).set_index(["label", "compared"])
    assert table.loc[("Pruning", "other seeds"), "iou"] == pytest.approx(1 / 3)
    assert table.loc[("RigL+", "other seeds"), "iou"] == 1.0
    assert table.loc[("RigL+", "its first masks"), "iou"] == pytest.approx((0 + 1 / 3) / 2)
    assert set(table["n"]) == {1, 2}


def test_survival_of_grown_weights(write_run):
    directory = write_run("rigl_plus", 0, changes=[1.0])
    for step, active in ((0, [0, 1]), (10, [0, 2]), (20, [0, 3]), (30, [0, 3])):
        save(directory, step, [1, 1, 1, 1], active)
    frame = tables.survivals(case_of(directory))
    assert frame[["age", "at_risk", "left"]].to_numpy().tolist() == [[10, 2, 1]]
    assert set(frame["label"]) == {"RigL+"}
