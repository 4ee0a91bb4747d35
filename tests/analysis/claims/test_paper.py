"""The paper's claims on runs whose truth is known: supported, refuted, undecided, not enough."""

import dataclasses
import pathlib

import numpy as np
import pandas as pd
import pytest

from analysis.claims import paper, quantities, statistics
from analysis.claims.effects import NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.records import landscapes, spectra
from analysis.records.runs import IDENTITY, Runs, load_runs
from analysis.similarity import tables

SEEDS = (0, 1, 2)
NO_RUNS = Runs(*(pd.DataFrame(columns=["run"]) for _ in dataclasses.fields(Runs)))
NO_PATHS = landscapes.load_paths([], NO_RUNS)
NO_SPECTRA = spectra.Spectra(pd.DataFrame(columns=["run"]), pd.DataFrame(columns=[*IDENTITY, "step"]))


def top(directory: pathlib.Path) -> pathlib.Path:
    return next(parent for parent in directory.parents if parent.name == "runs")


def case_of(directory: pathlib.Path) -> Runs:
    ((_, _, case),) = load_runs(top(directory)).cases()
    return case


def judged(runs: Runs, **frames: pd.DataFrame) -> dict[str, paper.Verdict]:
    """Verdicts on runs without checkpoints; frames take the place of what would be read from them."""
    predicted = tables.load_predictions(runs)
    own = quantities.Evidence(
        **{
            "runs": runs,
            "pairs": tables.within_methods(runs, predicted),
            "to_parents": tables.to_parents(runs, predicted),
            "distances": pd.DataFrame(columns=[*IDENTITY, "parent", *tables.DISTANCES]),
            "barriers": NO_PATHS.barriers,
            "curvature_changes": NO_SPECTRA.updates,
            **frames,
        }
    )
    return {verdict.claim.name: verdict for verdict in paper.judge(own)}


def by_run(runs: Runs, **values: dict[str, list[float]]) -> pd.DataFrame:
    """Returns a frame with the identity of the runs of some modes and columns of given values, one per seed."""
    rows = []
    for row in runs.runs.to_dict("records"):
        mode = row["run"].split("/")[1]
        known = {column: of_mode[mode][row["seed"]] for column, of_mode in values.items() if mode in of_mode}
        if known:
            rows.append({**{c: row[c] for c in IDENTITY}, "parent": row["parent"], **known})
    return pd.DataFrame(rows)


@pytest.fixture
def like_the_paper(write_run) -> Runs:
    """Returns runs of three seeds that support every claim of the paper."""
    for seed, jitter in zip(SEEDS, (0.0, 0.0004, -0.0003), strict=True):
        shift = 0.01 * seed
        write_run("dense", seed, accuracy=0.99 + shift / 10 + jitter, wrong=[seed])
        write_run("small_dense", seed, gradient_norm=[1.0 + shift, 0.6, 0.5], accuracy=0.96, wrong=[])
        write_run("prune", seed, accuracy=0.985 + shift / 10, wrong=[seed, 10 + seed, 20 + seed])
        write_run(
            "lottery",
            seed,
            gradient_norm=[0.05, 0.3, 0.3],
            accuracy=0.984 + shift / 10 + jitter,
            wrong=[seed, 10 + seed],
        )
        wrong = [5 + seed, 15, 25, *([26] * (seed == 1))]
        write_run("scratch", seed, gradient_norm=[0.04 + shift, 0.03, 0.04], accuracy=0.97 + jitter, wrong=wrong)
        write_run("scratch_plus", seed, gradient_norm=[1.1 + shift, 1.0, 0.9 + jitter], accuracy=0.975, wrong=[])
        write_run(
            "set_plus", seed, gradient_norm=[1.1 + shift, 1.1, 1.2], changes=[0.06, 0.1], accuracy=0.978, wrong=[]
        )
        directory = write_run(
            "rigl_plus",
            seed,
            gradient_norm=[1.1 + shift, 2.5, 2.4],
            changes=[1.2, 1.4 + shift],
            accuracy=0.983 + shift / 10,
            wrong=[],
        )
    return case_of(directory)


def test_what_is_as_in_the_paper_is_supported(like_the_paper):
    verdicts = judged(like_the_paper)
    supported = {name for name, verdict in verdicts.items() if verdict.status == SUPPORTED}
    assert supported == {
        "scratch_starts_low",
        "init_raises_gradient",
        "init_raises_accuracy",
        "rigl_raises_gradient",
        "rigl_raises_more_than_set",
        "rigl_flow_above_scratch",
        "rigl_accuracy_above_scratch",
        "rigl_accuracy_above_set",
        "flow_goes_with_accuracy",
        "dense_above_rigl",
        "ticket_flow",
        "ticket_accuracy",
        "ticket_above_scratch",
        "ticket_agrees",
    } - {name for name in ("flow_goes_with_accuracy",) if verdicts[name].status == UNDECIDED}
    effect = verdicts["init_raises_accuracy"].measured.interval
    assert effect.mean == pytest.approx(0.005, abs=1e-4)
    assert verdicts["rigl_raises_gradient"].effect.startswith("+1.3")


def test_the_opposite_is_not_supported(write_run):
    for seed in SEEDS:
        write_run("prune", seed, accuracy=0.98, wrong=[seed])
        wrong = [5, 6, 7, 8, *([9] * (seed == 1))]
        write_run("lottery", seed, gradient_norm=[9.0 + seed, 2, 2], accuracy=0.90 + 0.001 * seed, wrong=wrong)
        write_run("scratch", seed, gradient_norm=[3.0 + seed, 0.1, 0.1], accuracy=0.95, wrong=[seed])
        write_run("scratch_plus", seed, gradient_norm=[0.1, 1.0, 1.0], accuracy=0.93 + 0.001 * seed)
        write_run("small_dense", seed, gradient_norm=[0.1, 1, 1], accuracy=0.9)
        write_run("set_plus", seed, gradient_norm=[0.1, 0.3, 0.3], changes=[0.5 + 0.1 * seed, 0.5], accuracy=0.96)
        directory = write_run(
            "rigl_plus",
            seed,
            gradient_norm=[0.1, 0.4, 0.4 + 0.01 * seed],
            changes=[-0.2, -0.1 - 0.01 * seed],
            accuracy=0.91 + 0.003 * seed**2,
        )
    verdicts = judged(case_of(directory))
    refuted = {name for name, verdict in verdicts.items() if verdict.status == NOT_SUPPORTED}
    assert refuted >= {
        "scratch_starts_low",
        "init_raises_gradient",
        "init_raises_accuracy",
        "rigl_raises_gradient",
        "rigl_raises_more_than_set",
        "rigl_flow_above_scratch",
        "rigl_accuracy_above_scratch",
        "rigl_accuracy_above_set",
        "ticket_flow",
        "ticket_accuracy",
        "ticket_above_scratch",
        "ticket_agrees",
    }
    assert not any(verdict.status == SUPPORTED for verdict in verdicts.values())


def test_noise_is_undecided(write_run):
    for seed, noise in zip(SEEDS, (-0.1, 0.1, 0.0205), strict=True):
        write_run("prune", seed, accuracy=0.9)
        write_run("lottery", seed, accuracy=0.9 + noise)
        directory = write_run("scratch", seed, accuracy=0.9)
    verdicts = judged(case_of(directory))
    assert verdicts["ticket_accuracy"].status == UNDECIDED
    assert verdicts["ticket_above_scratch"].status == UNDECIDED


def test_one_seed_and_no_runs_are_not_enough(write_run):
    for mode in ("prune", "lottery", "scratch"):
        directory = write_run(mode, 0, wrong=[1])
    verdicts = judged(case_of(directory))
    assert {verdict.status for verdict in verdicts.values()} == {NOT_ENOUGH}
    assert all(verdict.measured.missing for verdict in verdicts.values())
    assert verdicts["ticket_accuracy"].effect == "+0.00 points"
    assert verdicts["rigl_raises_gradient"].effect == ""


def test_unfinished_runs_count_for_what_they_have(write_run):
    for seed in SEEDS:
        write_run("scratch", seed, gradient_norm=[0.1, 0.1], finished=False)
        directory = write_run("scratch_plus", seed, gradient_norm=[1.0 + seed, 1.0], finished=False)
    verdicts = judged(case_of(directory))
    assert verdicts["init_raises_gradient"].status == SUPPORTED
    assert verdicts["init_raises_accuracy"].status == NOT_ENOUGH


def test_distances_barriers_and_curvature(like_the_paper):
    runs = like_the_paper
    distances = by_run(
        runs,
        start_l2={"lottery": [13.0, 13.2, 13.1], "scratch": [17.0, 17.4, 17.1]},
        end_l2={"lottery": [6.0, 6.4, 6.1], "scratch": [39.0, 36.0, 41.0]},
    )
    path = {"path": "line", "to_parent": True, "from_start": False, "split": "train"}
    loss = by_run(runs, above_line={"lottery": [0.006, 0.004, 0.007], "scratch": [1.7, 1.9, 1.6]})
    error = by_run(runs, above_mean={"lottery": [0.001, 0.002, 0.001], "scratch": [0.5, 0.6, 0.4]})
    barriers = pd.concat([loss.assign(quantity="loss", **path), error.assign(quantity="error", **path)])
    changes = by_run(
        runs, negative_change={"rigl_plus": [40, 52, 47]}, lambda_min_change={"rigl_plus": [-2, -1.5, -1.8]}
    )
    verdicts = judged(runs, distances=distances, barriers=barriers, curvature_changes=changes)
    for name in ("ticket_starts_closer", "ticket_ends_closer", "ticket_barrier", "ticket_connected"):
        assert verdicts[name].status == SUPPORTED, name
    assert verdicts["rigl_adds_negative_curvature"].status == SUPPORTED
    assert verdicts["rigl_deepens_negative_curvature"].status == SUPPORTED
    # The same numbers of paths that do not lead to the pruned network, or begin at its start, say nothing.
    for column, value in (("to_parent", False), ("from_start", True), ("split", "test"), ("path", "quadratic")):
        others = judged(runs, distances=distances, barriers=barriers.assign(**{column: value}))
        assert others["ticket_barrier"].status == NOT_ENOUGH


def test_tickets_of_one_network(write_run):
    rng = np.random.default_rng(0)
    for seed in range(4):
        write_run("prune", seed, wrong=rng.choice(40, 6, replace=False))
        directory = write_run("lottery", seed, pruned="0/prune", wrong=[1, 2, 3, 4 + seed % 2])
    verdicts = judged(case_of(directory))
    assert verdicts["tickets_alike"].status == SUPPORTED
    assert verdicts["tickets_alike"].measured.interval.mean < -0.1


def test_accuracy_of_tickets_is_that_above_their_own_parent(write_run):
    for seed in range(3):
        write_run("prune", seed, accuracy=0.9 + 0.03 * seed)
        directory = write_run("lottery", seed, pruned="0/prune", accuracy=0.901 + 0.001 * seed)
    verdict = judged(case_of(directory))["ticket_accuracy"]
    assert verdict.status == SUPPORTED
    assert verdict.measured.interval.mean == pytest.approx(0.002)


def test_every_claim_is_told_apart_and_has_a_range():
    names = [claim.name for claim in paper.CLAIMS]
    assert len(set(names)) == len(names)
    for claim in paper.CLAIMS:
        assert np.isfinite(claim.low) or np.isfinite(claim.high)
        assert claim.statement.endswith(".")
        assert claim.paper


def test_verdicts_as_a_frame(like_the_paper):
    frame = paper.as_frame(list(judged(like_the_paper).values()))
    assert len(frame) == len(paper.CLAIMS)
    row = frame.set_index("claim").loc["init_raises_gradient"]
    assert row["low"] < row["effect"] < row["high"]
    assert (row["unit"], row["n"], row["interval"]) == ("times", 3, "paired t-interval over seeds")


def rigl_and_static(write_run, after: float) -> dict[str, paper.Verdict]:
    """Two seeds of RigL and the same masks left alone, alike until RigL's first update at a fifth of training."""
    for seed in (0, 1):
        prefix = [1.0, 0.8 + 0.1 * seed, 0.7, 0.7, 0.6]
        write_run("prune", seed)
        write_run("scratch_plus", seed, gradient_norm=[*prefix, 0.5, 0.5], changes=())
        directory = write_run(
            "rigl_plus",
            seed,
            gradient_norm=[*prefix, 0.5 * after, (0.5 + seed / 100) * after],
            changes=[0.1],
            first_update=20,
        )
    return judged(case_of(directory))


def test_early_training_begins_after_the_first_mask_update(write_run):
    # The first tenth of these runs lies before it, where both have the same numbers: 1 times [1, 1].
    verdict = rigl_and_static(write_run, after=3.0)["rigl_flow_above_scratch"]
    assert verdict.status == SUPPORTED
    assert verdict.measured.interval.mean == pytest.approx(3 * ((0.5 + 0.51) / (0.5 + 0.5)) ** 0.5)


def test_identical_runs_are_no_verdict(write_run):
    for seed in (0, 1):
        write_run("prune", seed)
        for mode in ("scratch_plus", "rigl_plus"):
            directory = write_run(mode, seed, gradient_norm=[1.0, 0.8 + 0.1 * seed, 0.7])
    verdict = judged(case_of(directory))["rigl_flow_above_scratch"]
    assert verdict.status == NOT_ENOUGH
    assert verdict.effect == "1 times [1, 1]" and "identical runs" in verdict.measured.missing


def test_runs_that_have_not_trained_are_named(write_run):
    for seed in SEEDS:
        write_run("prune", seed, accuracy=0.98)
        write_run("lottery", seed, accuracy=0.98 + 0.001 * seed)
        ended = {"accuracy": 0.25 + seed / 100, "outcome": "at_chance", "left_plateau_at": None} if seed else {}
        directory = write_run("scratch", seed, **ended)
    directory = write_run("scratch", 3, outcome="diverged", left_plateau_at=None)
    verdicts = judged(case_of(directory))
    assert verdicts["ticket_above_scratch"].measured.sides.endswith(" (2 of 4 at chance, 1 of 4 diverged)")
    assert verdicts["ticket_accuracy"].measured.sides == "Lottery"


def test_several_pruned_networks_crossed_with_seeds(write_run):
    gains = [[0.010, 0.014], [0.030, 0.038]]
    for network in (0, 1):
        write_run("prune", network, accuracy=0.95)
        for seed in (0, 1):
            places = {"pruned": f"{network}/prune"}
            write_run("scratch", seed, name=f"{network}/scratch_{seed}", accuracy=0.9, **places)
            directory = write_run(
                "lottery", seed, name=f"{network}/lottery_{seed}", accuracy=0.9 + gains[network][seed], **places
            )
    found = judged(case_of(directory))["ticket_above_scratch"].measured.interval
    expected = statistics.crossed_interval({(str(p), s): gains[p][s] for p in (0, 1) for s in (0, 1)})
    assert found[:3] == pytest.approx(expected[:3])
    assert found.kind == "paired t-interval over 2 pruned networks x 2 seeds"
