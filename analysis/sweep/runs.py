"""Runs a grid, and prints its table."""

import sys
from collections.abc import Sequence

from absl import logging

from analysis.sweep import table
from analysis.sweep.grid import Planner, Sweep
from sparse_lib.experiment.jobs.places import Place
from sparse_lib.experiment.jobs.stages import Job, Stage
from sparse_lib.experiment.storage import files

TABLE = "sweep"


def run(sweep: Sweep, planner: Planner, stages: Sequence[Stage], jobs: int, place: Place) -> None:
    """Trains what is missing, then writes and prints the table.

    Args:
      sweep: what to run.
      planner: of the sweep.
      stages: its runs.
      jobs: runs at once; 0 means one per core (count).
      place: where the runs are made.
    """
    job = Job("sweep", stages, sweep.out / "logs", jobs=jobs, place=place)
    pruned = sum(bool(stage.after) for stage in stages)
    logging.info(
        "sweep: %d settings, %d runs into %s%s",
        len(sweep.settings),
        len(stages),
        sweep.out,
        f"; {pruned} of them wait for pruned runs" if pruned else "",
    )
    job.run()
    outcomes = table.list_outcomes(sweep, planner.directory)
    text = table.format_table(outcomes)
    files.write_text(sweep.out / f"{TABLE}.txt", text + "\n")
    files.write_text(sweep.out / f"{TABLE}.csv", table.format_csv(outcomes))
    sys.stdout.write(
        f"\n{text}\n\nMean and half of the 95% interval over seeds. The runs are in {sweep.out}, this table in "
        f"{sweep.out}/{TABLE}.txt and {TABLE}.csv.\n"
    )
