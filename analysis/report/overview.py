"""The whole report: results, claims, what a reader may explore, one section per case, and sections about all runs."""

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
from analysis.records.runs import Runs, find_runs, load_runs
from analysis.report import case as cases
from analysis.report import explore, formatting, outcomes, page, provenance, results, similarity
from analysis.report.case import Case, measure_case
from analysis.report.charts import Chart
from analysis.report.page import Section
from analysis.report.writer import ReportWriter
from sparse_lib.experiment.runtime.errors import RunError

TITLE = "Sparse training: gradient flow and lottery tickets"
# Sections of a case, in order.
_SUBJECTS = (
    outcomes.outcome_section,
    cases.gradient_section,
    cases.curvature_section,
    similarity.function_section,
    similarity.weight_section,
    cases.mask_section,
)


def write(tops: Sequence[str | os.PathLike[str]], out: pathlib.Path, command: str = "") -> pathlib.Path:
    """Writes a report.

    Args:
      tops: directories with runs and the results of analyses.
      out: directory of the page; created if missing.
      command: that asked for it, for the foot of the page; empty leaves it out.

    Returns:
      Path of the page.

    Raises:
      InputError: if a directory does not exist.
      RunError: if there is no run, or the report cannot be written.
    """
    runs = load_runs(tops)
    if runs.runs.empty:
        places = ", ".join(map(str, tops))
        raise RunError(
            f"There is no run in {places}: a run is a directory with an operative_config.gin, as train.py writes it; "
            "name the --logdir of train.py, or a directory above it."
        )
    writer = ReportWriter(out)
    notes = [*runs.notes, *(f"There is no run in {top}." for top in tops if not any(find_runs(pathlib.Path(top))))]
    paths, measured = landscapes.load_paths(tops, runs, notes), spectra.load(runs, notes)
    every = [measure_case(*case, paths, measured) for case in runs.cases()]
    parts = [results.results_section(runs, every, writer), _claims_section(every, writer)]
    # Its place is here; what could not be read is known after the other sections.
    explored = Section("Explore")
    parts.append(explored)
    parts += [_case_section(case, writer) for case in every]
    parts += [
        _cost_section(runs, writer),
        _propagation_section(runs, writer),
        _landscape_section(tops, runs, writer, notes),
        _reading_section(),
    ]
    _fill_explored(explored, runs, writer, notes)
    origin = provenance.collect(runs, command)
    text = page.document(TITLE, _lead(runs), parts, origin, explored=explore.gather(runs))
    about = [
        {
            "setting": case.setting,
            "sparsity": case.sparsity,
            "claims": {v.claim.name: v.status for v in case.verdicts},
        }
        for case in every
    ]
    return writer.finish(text, {"cases": about, "origin": origin})


def _lead(runs: Runs) -> str:
    n, settings = len(runs.runs), sorted(runs.runs["setting"].unique())
    return f"{n} run{'s' if n != 1 else ''}: {'; '.join(settings)}."


def _claims_section(every: Sequence[Case], writer: ReportWriter) -> Section:
    section = Section("Claims of the paper")
    children = [cases.claims_section(case, writer) for case in every]
    if len(children) == 1:
        section.add(_verdict_tiles(every[0].verdicts), *children[0].parts)
        return section
    heads = ["Case", *page.STATUSES]
    rows = [
        [
            page.link(case.title, f"{page.make_slug(section.title)}-{page.make_slug(case.title)}"),
            *(sum(v.status == s for v in case.verdicts) for s in page.STATUSES),
        ]
        for case in every
    ]
    section.add(page.table(f"Verdicts of these runs on {len(paper.CLAIMS)} claims of the paper.", heads, rows))
    section.children += children
    return section


def _case_section(case: Case, writer: ReportWriter) -> Section:
    whole = Section(case.title, anchor=case.slug)
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
    headline = results.headline_setting(runs.results)
    for setting, own in runs.results.groupby("setting"):
        child, names = Section(str(setting)), list(own["run"])
        if setting != headline:
            results.add_accuracy(child, str(setting), own, writer)
        writer.add_figure(
            child,
            f"{page.make_slug(str(setting))}/accuracy_flops",
            "Test accuracy against counted FLOPs, the cost on hardware that skips zeros. Small points are runs, "
            "large ones means of a method at a sparsity.",
            functools.partial(accuracy.against_flops, own),
            [
                Chart(f"final {cost}", "final test_accuracy", names, "x")
                for cost in ("training_flops", "inference_flops")
            ],
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


def _fill_explored(section: Section, runs: Runs, writer: ReportWriter, notes: Sequence[str]) -> None:
    """Adds what a reader may explore, and a plain table for readers without scripts and for print."""
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
    section.add(page.explore(page.folded(f"All {len(rows)} runs", page.table("", heads, rows, names=2))))
    if notes:
        section.add(page.paragraph("Files that could not be read:", "note"), page.bullets(tuple(notes)))


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
