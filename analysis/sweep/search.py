"""A search for good values by optuna: validation accuracy, mean over the seeds of a setting."""

import math
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import logging

from analysis.sweep import table
from analysis.sweep.grid import Planner, Setting, Sweep, check_names
from analysis.sweep.values import Range
from sparse_lib.experiment.jobs.places import Place
from sparse_lib.experiment.jobs.stages import Job, Stage
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import files

JOURNAL, TABLE = "search.journal", "search"
# Trials at random before the sampler has something to go by, and before a trial can be given up (count).
_RANDOM_TRIALS = 5
# Drawn values are rounded, so that what is listed is what ran (significant digits).
_DIGITS = 4


class Search(NamedTuple):
    """What to search.

    Attributes:
      sweep: the points of a grid, each of which is searched on its own.
      ranges: of the settings that are searched.
      trials: of each point (count).
      seed: of the sampler.
      prunes: whether trials that are worse than most at the same step are given up.
    """

    sweep: Sweep
    ranges: tuple[Range, ...]
    trials: int
    seed: int = 0
    prunes: bool = True


def run(search: Search, jobs: int, place: Place) -> None:
    """Runs the trials that are missing, then writes and prints the table.

    Args:
      search: what to search.
      jobs: runs at once; 0 means one per core (count).
      place: where the runs are made.

    Raises:
      SettingError: if a configuration is invalid, or holds no images out for validation.
      RunError: if optuna is not installed, or a run fails.
    """
    try:
        import optuna  # noqa: PLC0415
        from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415
    except ImportError as error:
        raise RunError("--tune needs optuna; install it by: pip install 'sparse-lib[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    _check(search)
    planner = Planner(search.sweep)
    job = Job("search", [], search.sweep.out / "logs", jobs=jobs, place=place)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(search.sweep.out / JOURNAL)))
    points = [_Point(search, setting, planner, job, storage) for setting in search.sweep.settings]
    example = planner.make_stages(_set(search.sweep.settings[0], _middle(search.ranges)))
    logging.info(
        "search: %d trials of %d runs each, into %s", search.trials * len(points), len(example), search.sweep.out
    )

    def watch() -> None:
        while True:
            for point in points:
                point.look_after()
            open_points = [point for point in points if point.is_open]
            if not job.idle or not open_points:
                return
            min(open_points, key=lambda point: point.count).ask()

    job.run(watch, search.trials * len(points) * sum(stage.work for stage in example))
    _report(search, planner, points)


def _check(search: Search) -> None:
    """Checks the configuration at both ends of every range, before any work."""
    names = [found.name for found in search.ranges]
    for name in names:
        grid = {dimension for setting in search.sweep.settings for dimension, _ in setting.values}
        if names.count(name) > 1 or name in grid:
            raise SettingError(f"{name} is there twice; it can be in one --tune or one --over.")
    planner = Planner(search.sweep)
    for setting in search.sweep.settings:
        for end in (0, -1):
            values = [
                (found.name, found.choices[end] if found.choices else _end(found, end)) for found in search.ranges
            ]
            configuration = planner.read(_set(setting, values))
            if not configuration.has_validation:
                raise SettingError(
                    f"{setting.name} holds no images out, and a search goes by validation accuracy; bind, for example, "
                    "--gin_bindings=data.validation_size=5000."
                )
            planner.make_stages(_set(setting, values))


def _end(found: Range, end: int) -> str:
    return repr(found.low if end == 0 else found.high)


def _middle(ranges: Sequence[Range]) -> list[tuple[str, str]]:
    return [(found.name, found.choices[0] if found.choices else repr(found.low)) for found in ranges]


def _set(setting: Setting, values: Sequence[tuple[str, str]]) -> Setting:
    return Setting(setting.configs, (*setting.values, *values))


def round_value(value: float) -> float:
    """Returns a value with as many significant digits as names of directories have.

    >>> round_value(0.123456)
    0.1235
    """
    return float(f"{value:.{_DIGITS}g}")


class _Trial(NamedTuple):
    number: int
    trial: Any
    setting: Setting
    stages: tuple[Stage, ...]
    reported: list[int]


class _Point:
    """The search at one point of the grid, a study of optuna."""

    def __init__(self, search: Search, setting: Setting, planner: Planner, job: Job, storage: Any) -> None:
        import optuna  # noqa: PLC0415

        self._search, self.setting, self._planner, self._job = search, setting, planner, job
        self._optuna = optuna
        pruner = optuna.pruners.MedianPruner(_RANDOM_TRIALS) if search.prunes else optuna.pruners.NopPruner()
        self.study = optuna.create_study(
            storage=storage, study_name=setting.name, load_if_exists=True, direction="maximize", pruner=pruner
        )
        self._check_ranges()
        self._active: list[_Trial] = []
        states = optuna.trial.TrialState
        # Trials that an earlier call left are tried again with the same values: their runs go on.
        for left in self.study.get_trials(states=(states.RUNNING,)):
            self.study.tell(left.number, state=states.FAIL)
            self.study.enqueue_trial(left.params)
        self.count = len(self.study.get_trials(states=(states.COMPLETE, states.PRUNED)))
        self._steps = planner.read(_set(setting, _middle(search.ranges))).total_steps

    def _check_ranges(self) -> None:
        """Checks that the journal, if there is one, is of this search."""
        asked = {found.name: repr(found) for found in self._search.ranges}
        asked["bindings"] = repr((self._search.sweep.bindings, self._search.sweep.flags))
        asked["seeds"] = repr(self._search.sweep.seeds)
        for name, value in asked.items():
            known = self.study.user_attrs.get(name)
            if known is None and not self.study.trials:
                self.study.set_user_attr(name, value)
            elif known != value:
                path = self._search.sweep.out / JOURNAL
                raise RunError(f"{path} belongs to another search ({name} differs); choose another --out.")

    @property
    def is_open(self) -> bool:
        """Whether trials are missing."""
        return self.count < self._search.trials

    def ask(self) -> None:
        """Starts the next trial."""
        # A sampler for each trial makes a search that goes on equal to one that was never stopped.
        self.study.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=_RANDOM_TRIALS, multivariate=True, seed=1000 * self._search.seed + self.count
        )
        self.count += 1
        trial = self.study.ask()
        setting = _set(self.setting, [(found.name, _suggest(trial, found)) for found in self._search.ranges])
        check_names([setting])
        trial.set_user_attr("setting", [list(value) for value in setting.values])
        stages = self._planner.make_stages(setting)
        self._job.add(stages)
        self._active.append(_Trial(trial.number, trial, setting, tuple(stages), []))

    def look_after(self) -> None:
        """Takes up what trials have achieved so far, and gives up those that are worse than most."""
        for active in list(self._active):
            directories = [self._planner.directory(active.setting, seed) for seed in self._search.sweep.seeds]
            if all(self._job.has_finished(stage.name) for stage in active.stages):
                accuracies = [table.read_validation(directory) for directory in directories]
                mean = sum(accuracies) / len(accuracies)
                if math.isnan(mean):
                    # A run that diverged is a bad one.
                    mean = 0.0
                self.study.tell(active.trial, mean)
                self._active.remove(active)
            elif self._search.prunes and self._is_worse(active, directories):
                others = {stage.name for other in self._active if other is not active for stage in other.stages}
                self._job.drop(stage.name for stage in active.stages if stage.name not in others)
                self.study.tell(active.trial, state=self._optuna.trial.TrialState.PRUNED)
                self._active.remove(active)

    def _is_worse(self, active: _Trial, directories: Sequence[pathlib.Path]) -> bool:
        """Reports new log steps that as many runs have passed as run side by side; returns whether to give up.

        The first half of a run says little about its end, and is only reported.
        """
        wanted = min(len(directories), self._job.slots)
        curves = [read_curve(directory) for directory in directories]
        known = sorted({step for curve in curves for step in curve} - set(active.reported))
        for step in known:
            there = [curve[step] for curve in curves if step in curve]
            if len(there) < wanted or step <= max(active.reported, default=0):
                continue
            active.trial.report(sum(there) / len(there), step)
            active.reported.append(step)
            if 2 * step >= self._steps and active.trial.should_prune():
                return True
        return False


def read_curve(directory: pathlib.Path) -> dict[int, float]:
    """Returns the validation accuracy by log step of a run, without the step at 0.

    Args:
      directory: of the run.
    """
    records, _ = files.JsonLines(directory / files.METRICS).scan()
    found = {record["step"]: record.get("validation_accuracy") for record in records}
    return {step: float(value) for step, value in found.items() if step and value is not None}


def _suggest(trial: Any, found: Range) -> str:
    """Draws a value, as a gin literal."""
    if found.choices:
        return str(trial.suggest_categorical(found.name, list(found.choices)))
    if found.is_integer:
        return repr(trial.suggest_int(found.name, found.low, found.high, log=found.is_log))
    return repr(round_value(trial.suggest_float(found.name, found.low, found.high, log=found.is_log)))


def _report(search: Search, planner: Planner, points: Sequence[_Point]) -> None:
    """Writes and prints the trials, the best first."""
    import optuna  # noqa: PLC0415

    states = optuna.trial.TrialState
    lines, outcomes, best = [], [], []
    for point in points:
        trials = point.study.get_trials(states=(states.COMPLETE, states.PRUNED))
        value = {trial.number: trial.value if trial.state == states.COMPLETE else -1.0 for trial in trials}
        for place, trial in enumerate(sorted(trials, key=lambda trial: -float(value[trial.number] or 0.0))):
            values = tuple((name, text) for name, text in trial.user_attrs["setting"])
            setting = Setting(point.setting.configs, values)
            directories = [planner.directory(setting, seed) for seed in search.sweep.seeds]
            outcomes.append(table.summarize(setting, directories))
            lines.append({"trial": trial.number, "state": trial.state.name.lower()})
            if place == 0:
                best.append(setting)
    text = table.format_table(outcomes)
    out = search.sweep.out
    files.write_text(out / f"{TABLE}.txt", text + "\n")
    files.write_text(out / f"{TABLE}.csv", table.format_csv(outcomes, lines))
    sys.stdout.write(f"\n{text}\n\n")
    for setting in best:
        bindings = " ".join(f'--gin_bindings="{binding}"' for binding in setting.bindings)
        sys.stdout.write(f"Best by validation accuracy: {setting.config} with {bindings}\n")
    sys.stdout.write(
        "Mean and half of the 95% interval over seeds; trials with fewer runs were given up. The runs are in "
        f"{out}, this table in {out}/{TABLE}.txt and {TABLE}.csv.\n"
    )
