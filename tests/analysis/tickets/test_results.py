"""Tables, verdict and figures of a study from run directories whose numbers are chosen by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from analysis.claims import paper
from analysis.tickets import claims, figures, landscape, summary, tables
from analysis.tickets.levels import Run
from analysis.tickets.plan import Plan
from sparse_lib.experiment.storage.checkpoints import Checkpoints

# Weights of a kernel 2x2 at initialisation, and of a level's start and end under its mask.
INITIAL = [[1.0, -1.0], [2.0, -2.0]]


def write_run(directory, records, weights, mask, **result):
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    last = records[-1]
    kept = {"test_accuracy": last["test_accuracy"], "sparsity": last["sparsity"], "wall_seconds": 2.0, **result}
    (directory / "result.json").write_text(json.dumps(kept))
    for step, values in weights.items():
        state = {
            "model": {"mlp/dense1/kernel": tf.Variable(values), "mlp/dense1/bias": tf.Variable([0.0, 0.0])},
            "masks": {"dense1/kernel": tf.Variable(mask)},
        }
        Checkpoints(directory, state, keep=None, network="mlp").save(step)


def record(step, loss, accuracy, sparsity=0.0):
    return {
        "step": step,
        "validation_loss": loss,
        "validation_accuracy": accuracy - 0.01,
        "test_accuracy": accuracy,
        "sparsity": sparsity,
        "sparsity/dense1/kernel": sparsity,
        "active_weights": round(4 * (1 - sparsity)),
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    runs = []

    def add(seed, level, branch, *written):
        directory = out / f"seed_{seed}" / (f"level_{level:02d}" + (f"_{branch}" if branch else ""))
        write_run(directory, *written)
        runs.append(Run(seed, level, branch, (), 100, directory))

    full = [[True, True], [True, True]]
    for seed, half in ((1, [[True, False], [True, False]]), (2, [[True, False], [False, True]])):
        dense = [record(0, 2.3, 0.1), record(50, 0.5, 0.9), record(100, 0.7, 0.92)]
        add(seed, 0, "", dense, {0: INITIAL, 100: [[1.0, 1.0], [-2.0, -2.0]]}, full)
        ticket = [record(0, 2.2, 0.3, 0.5), record(50, 0.6, 0.91, 0.5), record(100, None, 0.8, 0.5)]
        end = [[-1.0, 0.0], [2.0, 0.0]] if seed == 1 else [[1.0, 0.0], [0.0, -2.0]]
        add(seed, 1, "", ticket, {0: np.where(half, INITIAL, 0).tolist(), 100: end}, half)
        add(seed, 1, "supermask", ticket[:2], {}, half)
    return runs


def write_landscape(plan):
    """A line from level 0 to 1 with seed 1, and copies of level 1 with seed 2."""
    line = plan.out / "seed_1" / "barriers" / "level_01"
    copies = plan.out / "seed_2" / "instability" / "level_01"
    for folder in (line, copies):
        folder.mkdir(parents=True)
    peaks = {"error": {"above_mean": {"height": 0.3}}, "loss": {"above_mean": {"height": 1.5}}}
    (line / "interpolation.json").write_text(json.dumps({"barrier": {"test": peaks}}))
    measured = {"split": "test", "error_barrier": 0.01, "loss_barrier": 0.1, "step": 0}
    (copies / "instability.json").write_text(json.dumps({"instability": [measured]}))


@pytest.fixture(scope="module")
def made(study):
    top = study[0].directory.parents[1]
    plan = Plan(top, levels=1, seeds=2, rewind=20)
    write_landscape(plan)
    one, other = ([run for run in study if run.seed == seed and run.level == 1] for seed in (1, 2))
    parts = ((one, "barriers"), (other, "instability"))
    frames = [landscape.make_table(plan._replace(landscape=(kind,)), runs) for runs, kind in parts]
    return tables.make_tables(study, pd.concat(frames))


def test_a_row_says_what_happened_when(made):
    rows = made.runs.set_index(["branch", "seed", "level"])
    dense, ticket, supermask = (rows.loc[key] for key in (("ticket", 1, 0), ("ticket", 1, 1), ("supermask", 1, 1)))
    assert (dense["best_step"], dense["best_test_accuracy"], dense["test_accuracy"]) == (50, 0.9, 0.92)
    assert (ticket["best_step"], ticket["best_test_accuracy"], ticket["start_test_accuracy"]) == (50, 0.91, 0.3)
    assert (ticket["weights_remaining"], ticket["active_weights"], ticket["seconds"]) == (0.5, 2, 2)
    # Not trained: what it is before the first step.
    assert (supermask["test_accuracy"], supermask["best_step"], supermask["steps"]) == (0.3, 0, 0)


def test_layers_signs_and_overlap_by_hand(made):
    assert made.layers.loc[made.layers["level"] == 1, "density"].tolist() == [0.5, 0.5]
    signs = made.signs.set_index(["seed", "level"])
    # Dense: two of four weights change their sign. Level 1: one of two with seed 1, none with seed 2.
    assert signs.loc[(1, 0), ["since_start", "since_initialisation"]].tolist() == [0.5, 0.5]
    assert signs.loc[(1, 1), "since_start"] == 0.5 and signs.loc[(2, 1), "since_start"] == 0
    # One weight in common, three in the union.
    (pair,) = made.overlap.to_dict("records")
    assert pair["iou"] == pytest.approx(1 / 3) and 0 < pair["chance"] < 1 and pair["level"] == 1


def test_files_and_figures(study, made, tmp_path):
    names = ["runs.csv", "layers.csv", "signs.csv", "overlap.csv", "landscape.csv"]
    assert [path.name for path in made.write(tmp_path)] == names
    assert len(pd.read_csv(tmp_path / "runs.csv")) == len(study)
    for name, draw in figures.FIGURES.items():
        (ax, *_) = draw(made).axes
        low, high = ax.get_xlim()
        # From all weights to few, as in the paper.
        assert low > high and ax.lines, name
    ax = figures.accuracy(made).axes[0]
    assert next(list(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2) == [50.0, 100.0]


def test_barriers_are_those_of_the_levels(made):
    line, copies = made.landscape.to_dict("records")
    assert line == {
        "kind": "barriers",
        "seed": 1,
        "level": 1,
        "rewind": "20",
        "weights_remaining": 0.5,
        "split": "test",
        "error_barrier": 0.3,
        "loss_barrier": 1.5,
    }
    assert (copies["kind"], copies["seed"], copies["error_barrier"]) == ("instability", 2, 0.01)


def table(rows):
    columns = ["seed", "level", "branch", "weights_remaining", "best_test_accuracy", "best_step", "test_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def make_runs(reinit=(0.90, 0.92), steps=(250, 300)):
    """Tickets gain 1 and 2 points over dense, at half of its steps; level 9 is out of the range."""
    rows = []
    for seed, gain, low, late in ((1, 0.01, reinit[0], steps[0]), (2, 0.02, reinit[1], steps[1])):
        rows.append((seed, 0, "ticket", 1.0, 0.95, 200, 0.95))
        for level, left in ((3, 0.51), (5, 0.2), (9, 0.03)):
            rows.append((seed, level, "ticket", left, 0.95 + gain if level < 9 else 0.1, 90 + 10 * seed, 0.95))
            rows.append((seed, level, "reinit", left, low, late, low))
    return table(rows)


def test_claims_by_hand():
    found = {v.claim.name: v for v in paper.judge(make_runs(), claims.CLAIMS)}
    match = found["tickets_match_dense"].measured.interval
    # Differences .01 and .02: mean .015, s = .00707, t(1) = 12.706, half width .0635.
    assert match.mean == pytest.approx(0.015) and match.low == pytest.approx(0.015 - 0.0635, abs=1e-4)
    assert found["tickets_match_dense"].status == "undecided"
    faster = found["tickets_learn_faster"].measured.interval
    assert faster.mean == pytest.approx(math.sqrt(100 / 200 * 110 / 200))
    later = found["reinitialised_later"].measured.interval
    assert later.mean == pytest.approx(math.sqrt(250 / 100 * 300 / 110))
    worse = found["reinitialised_worse"].measured.interval
    assert worse.mean == pytest.approx(np.mean([0.90 - 0.96, 0.92 - 0.97]))
    assert worse.high == pytest.approx(-0.055 + 12.706 * 0.005, abs=1e-4)
    shuffled = found["shuffled_worse"]
    assert shuffled.status == "not enough data" and "mask shuffled" in shuffled.measured.missing


def test_clear_effects_are_decided():
    rows = make_runs(reinit=(0.850, 0.861), steps=(400, 450))
    found = {v.claim.name: v.status for v in paper.judge(rows, claims.CLAIMS)}
    assert found["reinitialised_worse"] == found["reinitialised_later"] == "supported"


def test_runs_at_chance_are_named():
    rows = make_runs()
    rows["run"], rows["outcome"] = rows.index.astype(str), "trained"
    rows.loc[(rows["branch"] == "reinit") & (rows["level"] == 5), "outcome"] = "at_chance"
    found = {v.claim.name: v.measured.sides for v in paper.judge(rows, claims.CLAIMS)}
    assert "random reinitialisation 91.00% (2 of 4 at chance), winning ticket 96.50%;" in found["reinitialised_worse"]
    assert "chance" not in found["tickets_match_dense"]


def test_seeds_without_a_difference_are_no_verdict():
    rows = make_runs()
    rows["best_step"] = 100
    found = {v.claim.name: v for v in paper.judge(rows, claims.CLAIMS)}["tickets_learn_faster"]
    assert found.status == "not enough data" and found.measured.missing == "seeds that differ"


def test_summary_has_a_row_per_level_and_a_line_per_claim():
    rows = make_runs()
    text = summary.format_summary(rows, paper.judge(rows, claims.CLAIMS))
    cells = [line.split()[:2] for line in text.splitlines()]
    tickets = [["ticket", left] for left in ("100.0%", "51.0%", "20.0%", "3.0%")]
    assert cells[3:10] == [*tickets, *(["reinit", left] for _, left in tickets[1:])]
    assert [line.partition(":")[0] for line in text.splitlines()[11::2]] == [
        *("undecided", "supported", "undecided", "supported", "not enough data")
    ]
