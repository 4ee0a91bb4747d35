"""Sections about runs that did not train, and about the step at which the others began to."""

import pandas as pd

from analysis.figures import palette, plateau
from analysis.records import methods
from analysis.report import page
from analysis.report.case import Case
from analysis.report.page import Section
from analysis.report.writer import ReportWriter


def name_failures(runs: pd.DataFrame) -> list[str]:
    """Names the runs that have ended without having trained.

    Args:
      runs: from `Runs.runs`.

    Returns:
      One sentence per outcome and method.
    """
    failed = runs[runs["outcome"].isin(methods.FAILURES)]
    counts = runs[runs["outcome"].notna()].groupby("label").size()
    return [
        f"{label}: {len(own)} of {counts[label]} {methods.FAILURES[outcome]} ({', '.join(own['run'])})."
        for (label, outcome), own in failed.groupby(["label", "outcome"])
    ]


def outcome_section(case: Case, writer: ReportWriter) -> Section:
    """How the runs of a case ended, and when they left the plateau."""
    section = Section("Leaving the plateau")
    known = plateau.select(case.runs.runs)
    if known.empty:
        return section
    writer.write_data(f"{case.slug}/plateau", known)
    rows = []
    for label, look in palette.looks(known).items():
        own = known[known["label"] == label]
        left = own.loc[own["has_left"], "until"]
        rows.append(
            [
                page.method_name(label, look.colour),
                len(own),
                len(left),
                f"{left.min():,.0f} to {left.max():,.0f}" if len(left) else "",
                *((own["outcome"] == outcome).sum() for outcome in methods.FAILURES),
            ]
        )
    caption = (
        "Runs that have ended. A run leaves the plateau at the first log step whose validation accuracy is 2/9 of the "
        "way from chance to 1, 30% with ten balanced classes; at chance it is no better than always answering the "
        "largest class (binomial test at 0.001)."
    )
    heads = ["Method", "Runs", "Left", "At step", *(text.capitalize() for text in methods.FAILURES.values())]
    section.add(page.table(caption, heads, rows))
    writer.add_figure(
        section,
        f"{case.slug}/plateau",
        "Step at which each run left the plateau, and the share of runs still on it (Kaplan-Meier estimate). Runs that "
        "never left are censored at their last log step, and in no mean.",
        lambda: plateau.plateau(case.runs.runs),
    )
    return section
