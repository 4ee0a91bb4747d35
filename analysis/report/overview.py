"""The whole report: a summary, one section per case, and sections about all runs."""

import datetime
import functools
import os
import pathlib
from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from analysis import propagation
from analysis.claims import paper
from analysis.figures import accuracy, palette
from analysis.figures import landscape as landscape_figures
from analysis.figures import propagation as propagation_figures
from analysis.records import landscapes, spectra
from analysis.records.runs import STATES, Runs, load_runs
from analysis.report import case as cases
from analysis.report import formatting, outcomes, page, similarity
from analysis.report.case import Case, measure_case
from analysis.report.page import Section
from analysis.report.writer import ReportWriter

TITLE = "Sparse training: gradient flow and lottery tickets"
# Sections of a case, in order.
_SUBJECTS = (
    cases.claims_section,
    cases.results_section,
    outcomes.outcome_section,
    cases.gradient_section,
    cases.curvature_section,
    similarity.function_section,
    similarity.weight_section,
    cases.mask_section,
)
_FOOTER = "Made by python -m analysis.report. The paper is arXiv 2010.03533."


def write(tops: Sequence[str | os.PathLike[str]], out: pathlib.Path) -> pathlib.Path:
    """Writes a report.

    Args:
      tops: directories with runs and the results of analyses.
      out: directory of the page; created if missing.

    Returns:
      Path of the page.

    Raises:
      InputError: if a directory does not exist.
      RunError: if the report cannot be written.
    """
    runs = load_runs(tops)
    writer = ReportWriter(out)
    notes = list(runs.notes)
    paths, measured = landscapes.load_paths(tops, runs, notes), spectra.load(runs, notes)
    every = [measure_case(*case, paths, measured) for case in runs.cases()]
    parts = [_summary_section(tops, runs, every)]
    parts += [_case_section(case, writer) for case in every]
    parts += [
        _cost_section(runs, writer),
        _propagation_section(runs, writer),
        _landscape_section(tops, runs, writer, notes),
    ]
    parts += [_run_section(runs, writer, notes), _reading_section()]
    text = page.document(TITLE, _lead(runs), parts, f"{_FOOTER} {datetime.date.today().isoformat()}.")
    about = [
        {
            "setting": case.setting,
            "sparsity": case.sparsity,
            "claims": {v.claim.name: v.status for v in case.verdicts},
        }
        for case in every
    ]
    return writer.finish(text, {"cases": about})


def _lead(runs: Runs) -> str:
    n, settings = len(runs.runs), sorted(runs.runs["setting"].unique())
    return f"{n} run{'s' if n != 1 else ''}: {'; '.join(settings)}." if n else "No runs yet."


def _summary_section(tops: Sequence[str | os.PathLike[str]], runs: Runs, every: Sequence[Case]) -> Section:
    section = Section("Summary")
    if runs.runs.empty:
        places = ", ".join(map(str, tops))
        section.add(
            page.paragraph(f"There is no run below {places}: a run is a directory with operative_config.gin.", "note"),
            page.paragraph("Train one, then write the report again:"),
            page.command("python train.py --logdir=runs/rigl --gin_config=configs/rigl.gin"),
        )
        return section
    states = runs.runs["state"].value_counts()
    section.add(page.tiles([(int(states.get(s, 0)), s, "") for s in STATES if s in states]))
    if "finished" not in states:
        section.add(page.paragraph("No run is finished: the report shows curves and no final results.", "note"))
    elif set(states.index) - {"finished", "diverged"}:
        section.add(
            page.paragraph(
                "Some runs are not finished. Means over training end where the shortest run of a method ends; runs "
                "less than half as long as the longest are left out. Tables of final results and similarities cover "
                "finished runs alone.",
                "note",
            )
        )
    if failures := outcomes.name_failures(runs.runs):
        section.add(page.paragraph("Some runs have not trained; claims name them:", "note"), page.bullets(failures))
    heads = ["Case", *page.STATUSES]
    rows = [
        [page.link(case.title, case.slug), *(sum(v.status == s for v in case.verdicts) for s in page.STATUSES)]
        for case in every
    ]
    section.add(page.table(f"Verdicts of these runs on {len(paper.CLAIMS)} claims of the paper.", heads, rows))
    return section


def _case_section(case: Case, writer: ReportWriter) -> Section:
    whole = Section(case.title, anchor=case.slug)
    whole.add(_verdict_tiles(case.verdicts))
    whole.children += [subject(case, writer) for subject in _SUBJECTS]
    if lacks := [*writer.missing, *case.reader.notes]:
        lacking = Section("Not shown")
        lacking.add(page.bullets(dict.fromkeys(lacks)))
        writer.missing.clear()
        whole.children.append(lacking)
    return whole


def _verdict_tiles(verdicts: Sequence[paper.Verdict]) -> Markup:
    names = dict(zip(page.STATUSES, ("supported", "not supported", "undecided", "lack data"), strict=True))
    counts = {status: sum(v.status == status for v in verdicts) for status in page.STATUSES}
    return page.tiles([(n, f"claims {names[status]}", status.replace(" ", "-")) for status, n in counts.items()])


def _cost_section(runs: Runs, writer: ReportWriter) -> Section:
    section = Section("Accuracy, sparsity and cost")
    for setting, results in runs.results.groupby("setting"):
        child, slug = Section(str(setting)), str(setting).lower().replace(" ", "-")
        sparse = results[results["target_sparsity"] > 0]
        if sparse["target_sparsity"].nunique() > 1:
            writer.add_figure(
                child,
                f"{slug}/accuracy_sparsity",
                "Test accuracy against sparsity. Small points are runs, large ones means.",
                functools.partial(accuracy.against_sparsity, results),
            )
        writer.add_figure(
            child,
            f"{slug}/accuracy_flops",
            "Test accuracy against counted FLOPs, the cost on hardware that skips zeros. Small points are runs, "
            "large ones means of a method at a sparsity.",
            functools.partial(accuracy.against_flops, results),
        )
        section.children.append(child)
    writer.missing.clear()
    return section


def _propagation_section(runs: Runs, writer: ReportWriter) -> Section:
    section = Section("Signal propagation at initialisation")
    networks = [n for n in runs.runs["network"].unique() if n in propagation.NETWORKS]
    if not networks:
        return section
    frame = pd.concat([propagation.signal(network) for network in networks])
    writer.write_data("signal_propagation", frame)
    section.add(
        page.paragraph(
            "Response of the untrained networks to normal noise, under random masks with very different fan-ins. The "
            "dense initialisation scales weights by a fan-in that includes masked connections."
        )
    )
    writer.add_figure(
        section,
        "signal_propagation",
        "Standard deviation of logits and of hidden units over 500 inputs, for three initialisations. Lines are means "
        "over 3 draws, bands reach from minimum to maximum.",
        lambda: propagation_figures.signal(frame),
    )
    return section


def _landscape_section(
    tops: Sequence[str | os.PathLike[str]], runs: Runs, writer: ReportWriter, notes: list[str]
) -> Section:
    section = Section("Loss landscapes")
    for place, picture in enumerate(landscapes.load_pictures(tops, runs, notes)):
        for split, loss in picture.loss.items():
            writer.add_figure(
                section,
                f"landscapes/{picture.kind}_{place}_{split}",
                f"Loss on the {split} split: {picture.kind} in {'/'.join(pathlib.Path(picture.folder).parts[-2:])}.",
                functools.partial(
                    landscape_figures.picture, picture.kind, picture.xs, picture.ys, loss, picture.marks, split
                ),
            )
    instability = landscapes.load_instability(tops, runs, notes)
    writer.write_data("instability", instability)
    if not instability.empty:
        writer.add_figure(
            section,
            "landscapes/instability",
            "Error barrier between copies of a run that continue from a step with different data orders, above the "
            "mean of their errors. Below 2 points (line) the run is stable (Frankle et al. 2020).",
            lambda: landscape_figures.instability(instability),
        )
    writer.missing.clear()
    return section


def _run_section(runs: Runs, writer: ReportWriter, notes: Sequence[str]) -> Section:
    section = Section("All runs")
    if runs.runs.empty:
        return section
    writer.write_data("runs", runs.runs)
    writer.write_data("configs", runs.configs)
    looks = palette.looks(runs.runs)
    final = runs.results.set_index("run")["test_accuracy"].dropna()
    rows = [
        [
            page.method_name(row["label"], looks[row["label"]].colour),
            row["run"],
            row["seed"],
            formatting.format_percent(row["target_sparsity"]),
            row["state"] if row["state"] != "unfinished" else f"step {row['step']:,} of {row['total_steps']:,}",
            f"{100 * final[row['run']]:.2f}%" if row["run"] in final.index else "",
        ]
        for row in runs.runs.to_dict("records")
    ]
    heads = ["Method", "Run", "Seed", "Sparsity", "State", "Test accuracy"]
    section.add(page.folded(f"{len(rows)} runs", page.table("", heads, rows, names=2)))
    if notes:
        section.add(page.paragraph("Files that could not be read:", "note"), page.bullets(tuple(notes)))
    return section


def _reading_section() -> Section:
    section = Section("How to read this report")
    section.add(
        page.bullets(
            [
                "Intervals have 95% confidence. They cover variation over seeds, not over data, networks or settings. "
                "Differences are paired by seed if both methods have runs of the same seeds (Student's t); ratios are "
                "means of logarithms. Means over pairs of runs have jackknife intervals, because pairs share runs.",
                "A claim is supported if its whole interval lies where the claim holds (shaded), not supported if it "
                "lies outside, and undecided if it crosses the border: more seeds would decide it. Three seeds "
                "separate only large and consistent effects from chance; with some twenty claims, one may come out "
                "supported or refuted by chance.",
                "The gradient norm is that of the active weights for the unregularised loss on a fixed held-out "
                "batch. Early means a tenth of training: the first, or the one after the first mask update where the "
                "masks of a method that is compared move.",
                "A + marks the sparsity-aware initialisation. Scratch, lottery and prune-restart take the masks of a "
                "pruning run; so do SET and RigL unless a distribution such as ERK is named.",
                "A name followed by a setting, such as RigL, total_steps=3000, is a variant: its runs differ in that "
                "setting from those of the plain name, and no claim is tested on it.",
                "Values of the paper are for orientation: MNIST and ImageNet at the published training lengths.",
            ]
        )
    )
    return section
