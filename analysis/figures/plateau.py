"""When runs leave the plateau on which they begin."""

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from analysis.figures import palette, style


def select(runs: pd.DataFrame) -> pd.DataFrame:
    """Selects the runs of which it is known whether they have left the plateau.

    Args:
      runs: of one case, from `Runs.runs`.

    Returns:
      The ended runs with two more columns: `until`, the step at which a run left or, if it never did, its last log
      step, and `has_left`; the latter runs are censored.
    """
    known = runs[runs["outcome"].notna()]
    has_left = known["left_plateau_at"].notna()
    return known.assign(until=known["left_plateau_at"].fillna(known["step"]).astype(float), has_left=has_left)


@style.use_style
def plateau(runs: pd.DataFrame) -> Figure:
    """Step at which each run leaves the plateau, and the share of the runs of a method that are still on it.

    Args:
      runs: of one case, from `Runs.runs`.

    Returns:
      Left, a point per run; one that never left is a cross at its last log step. Right, Kaplan and Meier's estimate,
      in which such runs are censored and not averaged.

    Raises:
      NoData: if no run of the case has ended.
    """
    known = style.require(select(runs), ["until"], "No run has ended: when runs leave the plateau is not known yet.")
    drawn = palette.looks(known)
    figure, axes = style.grid(1, 2, 0.9 + 0.28 * max(len(drawn), 5), width_ratios=(1.2, 1))
    strip, curves = axes[0]
    for row, (label, look) in enumerate(drawn.items()):
        own = known[known["label"] == label]
        for has_left, runs_alike in own.groupby("has_left"):
            mark = {} if has_left else {"marker": "x", "markersize": 7}
            strip.plot(runs_alike["until"], [row] * len(runs_alike), **{**look.of_point(), "alpha": 0.8, **mark})
        x, y = estimate(own)
        curves.step(x, y, where="post", **look.of_line())
    strip.set_yticks(range(len(drawn)), labels=list(drawn))
    strip.invert_yaxis()
    curves.set_ylim(-0.03, 1.03)
    style.set_percent_axis(curves.yaxis, "runs still on the plateau")
    style.set_steps_axis(strip, "left at step (x: never, until its last)")
    style.set_steps_axis(curves)
    for ax in (strip, curves):
        ax.set_xlim(left=0)
    return figure


def estimate(own: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Estimates the share of runs on the plateau by step (Kaplan & Meier 1958).

    Args:
      own: runs of one method, from `select`.

    Returns:
      Steps from 0 to the last, and the share after each (fraction).
    """
    left, censored = (own.loc[own["has_left"] == side, "until"].to_numpy() for side in (True, False))
    sf = stats.ecdf(stats.CensoredData(uncensored=left, right=censored)).sf
    return [0.0, *map(float, sf.quantiles)], [1.0, *map(float, sf.probabilities)]
