"""What a reader looks for first: the states of the runs, one figure, and a table of final results."""

import functools
from collections.abc import Sequence

import pandas as pd

from analysis.figures import accuracy, training
from analysis.records.runs import STATES, Runs
from analysis.report import case as cases
from analysis.report import outcomes, page
from analysis.report.case import Case
from analysis.report.charts import Chart
from analysis.report.page import Section
from analysis.report.writer import ReportWriter

_DOTS = "Small points are runs, large ones means"
_FAR = "Runs below half the best accuracy are named and have no place on the axis."


def results_section(runs: Runs, every: Sequence[Case], writer: ReportWriter) -> Section:
    """Makes the first section of a report.

    Args:
      runs: all runs.
      every: the cases.
      writer: of the figures.

    Returns:
      The states of the runs, the headline figure, and a table of results for each case.
    """
    section = Section("Results")
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
    _add_headline(section, runs, every, writer)
    tables = [cases.results_section(case, writer) for case in every]
    if len(tables) == 1:
        section.add(*tables[0].parts)
    else:
        section.children += tables
    return section


def headline_setting(results: pd.DataFrame) -> str:
    """Returns the setting with most finished runs, whose figure comes first; empty if no run is finished."""
    return "" if results.empty else str(results["setting"].value_counts().index[0])


def _add_headline(section: Section, runs: Runs, every: Sequence[Case], writer: ReportWriter) -> None:
    setting = headline_setting(runs.results)
    if setting:
        add_accuracy(section, setting, runs.results[runs.results["setting"] == setting], writer)
    elif every:
        first = every[0]
        writer.add_figure(
            section,
            f"{first.slug}/progress",
            "Training loss since the last log step, and test accuracy, so far.",
            lambda: training.loss(first.runs.metrics),
            [Chart("step", "test_accuracy", first.names)],
        )
    writer.missing.clear()


def add_accuracy(section: Section, setting: str, results: pd.DataFrame, writer: ReportWriter) -> None:
    """Adds the accuracy of the runs of a setting: against sparsity if it has several, otherwise by method.

    Args:
      section: of the page.
      setting: network and data.
      results: of the setting, from `Runs.results`.
      writer: of the figure.
    """
    slug, names = page.make_slug(setting), list(results["run"])
    if results.loc[results["target_sparsity"] > 0, "target_sparsity"].nunique() > 1:
        writer.add_figure(
            section,
            f"{slug}/accuracy_sparsity",
            f"Test accuracy against sparsity: {setting}. {_DOTS}. {_FAR}",
            functools.partial(accuracy.against_sparsity, results),
            [Chart("target_sparsity", "final test_accuracy", names)],
        )
        return
    writer.add_figure(
        section,
        f"{slug}/accuracy",
        f"Test accuracy by method: {setting}. {_DOTS}, lines their 95% intervals over three seeds or more; the grey "
        f"line is the dense network. {_FAR}",
        functools.partial(accuracy.by_method, results),
        [Chart("final test_accuracy", "label", names)],
    )
