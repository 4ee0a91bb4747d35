"""The graph of a study: runs as stages, several of them in one process."""

import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence

from analysis.tickets import landscape
from analysis.tickets.levels import Run, make_runs
from analysis.tickets.plan import Plan
from sparse_lib.experiment.jobs import series
from sparse_lib.experiment.jobs.stages import Stage, read_last_step
from sparse_lib.experiment.storage import files

_SERIES = ("-m", "sparse_lib.experiment.jobs.series")


def make_stages(plan: Plan) -> list[Stage]:
    """Makes the stages of all runs.

    Args:
      plan: size of the study.

    Returns:
      The stages of the chains, of the branches and of the landscape; each after those that it waits for.
    """
    runs = make_runs(plan)
    groups = list(_group_runs(runs, plan.runs_in_process))
    of_level = {(run.seed, run.level): _name(group) for group in groups for run in group if not run.branch}
    trained_by = {run.directory: _name(group) for group in groups for run in group}
    stages = [_make_stage(group, _find_sources(group, of_level)) for group in groups]
    return [*stages, *landscape.make_stages(plan, runs, trained_by)]


def _group_runs(runs: Sequence[Run], size: int) -> Iterator[list[Run]]:
    """Groups successive levels of a seed and a branch; a longer study, or one with more branches, keeps the groups."""

    def part(run: Run) -> tuple[bool, int, str, int]:
        return bool(run.branch), run.level // size, run.branch, run.seed

    for _, same in itertools.groupby(sorted(runs, key=part), key=part):
        yield list(same)


def _name(group: Sequence[Run]) -> str:
    first, last = (run.directory.name for run in (group[0], group[-1]))
    return f"{group[0].directory.parent.name}/{first}" + (f"-{last}" if len(group) > 1 else "")


def _find_sources(group: Sequence[Run], of_level: dict[tuple[int, int], str]) -> tuple[str, ...]:
    """Returns the stages of the levels before those of a group."""
    wanted = [of_level[run.seed, run.level - 1] for run in group if run.level]
    return tuple(name for name in dict.fromkeys(wanted) if name != _name(group))


def _make_stage(group: Sequence[Run], after: tuple[str, ...]) -> Stage:
    command = group[0].command
    if len(group) > 1:
        words = [word for run in group for word in (series.THEN, *run.command[1:])]
        command = (*_SERIES, *words[1:])
    results = [run.directory / files.RESULT for run in group]
    return Stage(
        _name(group),
        command,
        functools.partial(_all_exist, results),
        after,
        float(sum(run.steps for run in group)),
        functools.partial(_count_steps, group),
    )


def _all_exist(paths: Sequence[pathlib.Path]) -> bool:
    return all(path.exists() for path in paths)


def _count_steps(group: Sequence[Run]) -> float:
    return float(sum(read_last_step(run.directory) for run in group))
