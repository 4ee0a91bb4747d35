"""The outcome of a study as text: accuracy by level and branch, and the verdict."""

from collections.abc import Sequence

import pandas as pd

from analysis.claims.paper import Verdict
from analysis.claims.statistics import t_interval
from analysis.tickets.branches import TICKET
from sparse_lib._utils.tables import text_table


def format_summary(runs: pd.DataFrame, verdicts: Sequence[Verdict]) -> str:
    """Formats the results of a study.

    Args:
      runs: table of runs, from `make_tables`.
      verdicts: of the claims.

    Returns:
      A table of means over seeds with half the width of their 95% interval, and one line or two per claim.
    """
    header = [["", "weights", "test accuracy", "test accuracy", "step of lowest", ""]]
    header += [["branch", "remaining", "at the end", "at best step", "validation loss", "runs"]]
    order = runs.assign(place=runs["branch"] != TICKET).groupby(["place", "branch", "level"], sort=True)
    rows = [_make_row(str(branch), own) for (_, branch, _), own in order]
    return "\n".join([text_table(header, rows, underline=True), "", *map(_format_verdict, verdicts)])


def _make_row(branch: str, own: pd.DataFrame) -> list[str]:
    steps = own["best_step"].mean()
    return [
        branch,
        f"{100 * own['weights_remaining'].mean():.1f}%",
        _format_mean(own["test_accuracy"]),
        _format_mean(own["best_test_accuracy"]),
        "" if pd.isna(steps) else f"{steps:,.0f}",
        str(len(own)),
    ]


def _format_mean(values: pd.Series) -> str:
    found = t_interval(values.to_numpy())
    half = "" if pd.isna(found.low) else f" +- {100 * (found.high - found.mean):.2f}"
    return f"{100 * found.mean:.2f}{half}"


def _format_verdict(verdict: Verdict) -> str:
    found = verdict.measured
    why = f"needs {found.missing}" if found.missing else f"{verdict.effect} ({found.sides})"
    return f"{verdict.status}: {verdict.claim.statement}\n    {why}; {verdict.claim.paper}"
