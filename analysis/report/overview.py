"""What a report holds: an overview, a section a case, and what all runs have in common."""

import datetime
import functools
import os
import pathlib
from collections.abc import Sequence

import pandas as pd

from analysis import propagation
from analysis.claims import paper
from analysis.figures import accuracy, style
from analysis.figures import landscape as landscape_figures
from analysis.figures import propagation as propagation_figures
from analysis.records import landscapes, spectra
from analysis.records.runs import Runs, load_runs
from analysis.report import formatting, page, sections
from analysis.report.case import Case, make_case
from analysis.report.page import Section
from analysis.report.writer import Sheets

TITLE = "Sparse training: gradient flow and lottery tickets"
_FOOTER = "Made by python -m analysis.report. The paper is arXiv 2010.03533."


def write(tops: Sequence[str | os.PathLike[str]], out: pathlib.Path) -> pathlib.Path:
    """Writes a report.

    Args:
      tops: directories that hold runs and what tools have written of them.
      out: directory of the page; it is made if need be.

    Returns:
      The page.

    Raises:
      ValueError: if a directory does not exist.
      RunError: if the report cannot be written.
    """
    runs = load_runs(tops)
    sheets = Sheets(out)
    paths, measured = landscapes.load_paths(tops, runs), spectra.load(runs)
    every = [make_case(*case, paths, measured) for case in runs.cases()]
    parts = [_overview(tops, runs, every)]
    parts += [sections.case_section(case, sheets) for case in every]
    parts += [_across(runs, sheets), _initialisation(runs, sheets), _landscapes(tops, runs, sheets)]
    parts += [_all_runs(runs, sheets), _reading()]
    text = page.document(TITLE, _lead(runs), parts, f"{_FOOTER} {datetime.date.today().isoformat()}.")
    about = [
        {
            "setting": case.setting,
            "sparsity": case.sparsity,
            "claims": {v.claim.name: v.status for v in case.verdicts},
        }
        for case in every
    ]
    return sheets.finish(text, {"cases": about})


def _lead(runs: Runs) -> str:
    n, settings = len(runs.runs), sorted(runs.runs["setting"].unique())
    return f"{n} run{'s' if n != 1 else ''}: {'; '.join(settings)}." if n else "No runs yet."


def _overview(tops: Sequence[str | os.PathLike[str]], runs: Runs, every: Sequence[Case]) -> Section:
    section = Section("At a glance")
    if runs.runs.empty:
        places = ", ".join(map(str, tops))
        section.add(
            page.paragraph(f"There is no run below {places}: a run is a directory with operative_config.gin.", "note"),
            page.paragraph("Train one, then make the report again:"),
            page.command("python train.py --logdir=runs/rigl --gin_config=configs/rigl.gin"),
        )
        return section
    states = runs.runs["state"].value_counts()
    section.add(
        page.tiles([(int(states.get(s, 0)), s, "") for s in ("finished", "unfinished", "empty") if s in states])
    )
    if "finished" not in states:
        section.add(page.paragraph("No run is finished: there are curves, and no final numbers.", "note"))
    elif set(states.index) - {"finished"}:
        section.add(
            page.paragraph(
                "Some runs are not finished. Means over training go as far as all runs of a method have come, without "
                "those that are less than half as far as the furthest; tables of final results and similarities leave "
                "out all that are not finished.",
                "note",
            )
        )
    heads = ["Case", *page.STATUSES]
    rows = [
        [page.link(case.title, case.slug), *(sum(v.status == s for v in case.verdicts) for s in page.STATUSES)]
        for case in every
    ]
    section.add(page.table(f"What these runs say of {len(paper.CLAIMS)} claims of the paper.", heads, rows))
    return section


def _across(runs: Runs, sheets: Sheets) -> Section:
    section = Section("Accuracy, sparsity and cost")
    for setting, results in runs.results.groupby("setting"):
        child, slug = Section(str(setting)), str(setting).lower().replace(" ", "-")
        sparse = results[results["target_sparsity"] > 0]
        if sparse["target_sparsity"].nunique() > 1:
            sheets.figure(
                child,
                f"{slug}/accuracy_sparsity",
                "Test accuracy against sparsity. Small points are runs, large ones means.",
                functools.partial(accuracy.against_sparsity, results),
            )
        sheets.figure(
            child,
            f"{slug}/accuracy_flops",
            "Test accuracy against counted FLOPs: what hardware that skips zeros would need. Small points are runs, "
            "large ones means of a method at a sparsity.",
            functools.partial(accuracy.against_flops, results),
        )
        section.children.append(child)
    sheets.missing.clear()
    return section


def _initialisation(runs: Runs, sheets: Sheets) -> Section:
    section = Section("Signal propagation at initialisation")
    networks = [n for n in runs.runs["network"].unique() if n in propagation.NETWORKS]
    if not networks:
        return section
    frame = pd.concat([propagation.signal(network) for network in networks])
    sheets.data("signal_propagation", frame)
    section.add(
        page.paragraph(
            "Untrained networks of these runs with random masks of very different fan-in, fed with normal noise: what "
            "reaches the logits. The dense initialisation counts connections that the mask takes away."
        )
    )
    sheets.figure(
        section,
        "signal_propagation",
        "Standard deviation of logits and of hidden units over 500 inputs, for three initialisations. Lines are means "
        "over 3 draws, bands reach from the smallest to the largest.",
        lambda: propagation_figures.signal(frame),
    )
    return section


def _landscapes(tops: Sequence[str | os.PathLike[str]], runs: Runs, sheets: Sheets) -> Section:
    section = Section("Loss landscapes")
    for place, picture in enumerate(landscapes.load_pictures(tops, runs)):
        for split, loss in picture.loss.items():
            sheets.figure(
                section,
                f"landscapes/{picture.kind}_{place}_{split}",
                f"Loss on the {split} split: {picture.kind}, from {'/'.join(pathlib.Path(picture.folder).parts[-2:])}.",
                functools.partial(
                    landscape_figures.picture, picture.kind, picture.xs, picture.ys, loss, picture.marks, split
                ),
            )
    instability = landscapes.load_instability(tops, runs)
    sheets.data("instability", instability)
    if not instability.empty:
        sheets.figure(
            section,
            "landscapes/instability",
            "Error barrier between copies of a run that go on from a step with other data orders, above the mean of "
            "their errors. Below 2 points (line) the run is stable (Frankle et al. 2020).",
            lambda: landscape_figures.instability(instability),
        )
    sheets.missing.clear()
    return section


def _all_runs(runs: Runs, sheets: Sheets) -> Section:
    section = Section("All runs")
    if runs.runs.empty:
        return section
    sheets.data("runs", runs.runs)
    sheets.data("configs", runs.configs)
    looks = style.looks(runs.runs)
    final = runs.results.set_index("run")["test_accuracy"]
    rows = [
        [
            page.method_name(row["label"], looks[row["label"]].colour),
            row["run"],
            row["seed"],
            formatting.percent(row["target_sparsity"]),
            row["state"] if row["state"] != "unfinished" else f"step {row['step']:,} of {row['total_steps']:,}",
            f"{100 * final[row['run']]:.2f}%" if row["run"] in final.index else "",
        ]
        for row in runs.runs.to_dict("records")
    ]
    heads = ["Method", "Run", "Seed", "Sparsity", "State", "Test accuracy"]
    section.add(page.folded(f"{len(rows)} runs", page.table("", heads, rows, names=2)))
    if runs.notes:
        section.add(page.paragraph("What could not be read:", "note"), page.listed(runs.notes))
    return section


def _reading() -> Section:
    section = Section("How to read this")
    section.add(
        page.listed(
            [
                "Intervals have 95% confidence. They cover the seeds of these runs, not other data, networks or "
                "settings. Where both sides have runs of the same seeds, differences are taken seed by seed "
                "(Student's t); ratios are means of logarithms. Means over pairs of runs have jackknife intervals, "
                "because pairs share runs.",
                "A claim is supported if its whole interval lies where the claim holds (shaded), not supported if it "
                "lies outside, and undecided if it reaches over the border: more seeds would tell. "
                "With three seeds only large and steady effects can be told from chance; with some twenty claims, one "
                "may look supported or refuted by chance.",
                "The gradient norm is that of the active weights, of the unregularised loss, on a fixed held-out "
                "batch. Early means the first tenth of training.",
                "A + is the sparsity-aware initialisation. Scratch, lottery and prune-restart take the masks of a "
                "pruning run; so do SET and RigL unless a distribution such as ERK is named.",
                "A name with a setting behind it, such as RigL, total_steps=3000, is a variant: its runs differ in "
                "that setting from those of the plain name, and the claims do not look at it.",
                "Numbers of the paper are for orientation: MNIST and ImageNet at its published lengths.",
            ]
        )
    )
    return section
