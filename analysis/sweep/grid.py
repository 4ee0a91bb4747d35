"""The settings of a sweep, and the runs of each, with the pruned runs that tickets need."""

import functools
import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from analysis.sweep.values import Dimension
from sparse_lib.experiment.jobs import configurations, protocol
from sparse_lib.experiment.jobs.stages import Stage, read_last_step
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.storage import files

# Folders of gin files that say nothing in the name of a run.
_PLAIN_FOLDERS = ("", "configs", "methods", "networks", "protocols")
# Work beside the steps: Python, TensorFlow and the compilation (step).
_START_STEPS = 500.0
_LONGEST_NAME = 200


class Setting(NamedTuple):
    """Runs that differ in their seeds only.

    Attributes:
      configs: gin files.
      values: gin literal by name, of what differs between settings.
    """

    configs: tuple[str, ...]
    values: tuple[tuple[str, str], ...] = ()

    @property
    def bindings(self) -> tuple[str, ...]:
        """Gin bindings of what differs."""
        return tuple(f"{name}={value}" for name, value in self.values)

    @property
    def config(self) -> str:
        """Short name of the gin files."""
        return "+".join(map(_shorten_path, self.configs)) or "default"

    @property
    def name(self) -> str:
        """Name of the directory."""
        short = [name.rpartition(".")[2] for name, _ in self.values]
        parts = [self.config]
        for (name, value), last in zip(self.values, short, strict=True):
            parts.append(f"{last if short.count(last) == 1 else name}={_slug(value)}")
        return ",".join(parts)


def _shorten_path(path: str) -> str:
    """`configs/rigl.gin` is rigl, `mlp_configs/rigl.gin` is mlp_rigl, `mine/rigl.gin` is mine_rigl."""
    file = pathlib.PurePath(path)
    folder = file.parent.name
    return file.stem if folder in _PLAIN_FOLDERS else _slug(f"{folder.removesuffix('_configs')}_{file.stem}")


def _slug(value: str) -> str:
    """Returns a value as a part of a file name: TensorFlow takes brackets of paths for patterns."""
    return re.sub(r"[^\w.+-]+", "-", value.strip("'\"()[]{} ")) or "empty"


class Sweep(NamedTuple):
    """What to run.

    Attributes:
      out: directory of all runs.
      settings: in the order of the table.
      seeds: of each setting.
      bindings: gin bindings of all settings.
      flags: other flags of `train.py`.
    """

    out: pathlib.Path
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    bindings: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def make_settings(configs: Sequence[tuple[str, ...]], over: Sequence[Dimension]) -> tuple[Setting, ...]:
    """Returns the Cartesian product of gin files and values.

    Args:
      configs: one list of gin files per value of that dimension; empty for the default network.
      over: the other dimensions, the last of which varies fastest.

    Raises:
      SettingError: if a dimension is there twice, or two settings would share a directory.
    """
    names = [dimension.name for dimension in over]
    for name in names:
        if names.count(name) > 1:
            raise SettingError(f"--over {name} is there twice; give all values in one.")
    products = itertools.product(*(dimension.values for dimension in over))
    points = [tuple(zip(names, values, strict=True)) for values in products]
    settings = tuple(Setting(files, point) for files in (configs or [()]) for point in points)
    check_names(settings)
    return settings


def check_names(settings: Sequence[Setting]) -> None:
    """Checks that every setting has a directory of its own.

    Args:
      settings: of a sweep.

    Raises:
      SettingError: names the directory.
    """
    owners: dict[str, Setting] = {}
    for setting in settings:
        if len(setting.name) > _LONGEST_NAME:
            raise SettingError(
                f"{setting.name[:60]}... is too long for the name of a directory; use a gin file or macro."
            )
        if owners.setdefault(setting.name, setting) != setting:
            raise SettingError(
                f"Two settings would share the directory {setting.name}; rename a gin file, or leave one out."
            )


class Planner:
    """Makes the stages of settings, each pruned run once."""

    def __init__(self, sweep: Sweep, script: str | None = None) -> None:
        """Reads nothing yet.

        Args:
          sweep: what to run.
          script: path of the entry point; None means `train.py`.
        """
        self._sweep = sweep
        self._script = script or os.path.relpath(protocol.ROOT / protocol.TRAIN)
        self._read = functools.cache(configurations.read)
        self._prune_for = functools.cache(self._find_pruning)

    def read(self, setting: Setting) -> configurations.Configuration:
        """Returns what the configuration of a setting says, after checking it.

        Args:
          setting: of the sweep.

        Raises:
          SettingError: names what is wrong, and in which setting.
        """
        try:
            return self._read(setting.configs, (*self._sweep.bindings, *setting.bindings))
        except SettingError as error:
            raise SettingError(f"{setting.name}: {error}") from error

    def make_stages(self, setting: Setting) -> list[Stage]:
        """Returns the runs of a setting, pruned runs before the tickets that take their masks.

        Args:
          setting: of the sweep.

        Raises:
          SettingError: if the configuration is invalid.
        """
        return [stage for seed in self._sweep.seeds for stage in self._make_runs(setting, seed)]

    def _make_runs(self, setting: Setting, seed: int) -> list[Stage]:
        configuration = self.read(setting)
        if not configuration.pruned:
            return [self._make_run(setting, seed, configuration.total_steps)]
        pruned = self._prune_for(setting)
        directory = self.directory(pruned, seed)
        paths = {f"network.{name}": f"{directory}{rest}" for name, rest in configuration.pruned.items()}
        first = self._make_run(pruned, seed, self.read(pruned).total_steps)
        return [first, self._make_run(setting, seed, configuration.total_steps, paths, (first.name,))]

    def _find_pruning(self, setting: Setting) -> Setting:
        """Returns the setting of the pruned run of a ticket."""
        configs = configurations.name_pruning_files(setting.configs)
        shared = configurations.select_pruning_bindings(configs, (*self._sweep.bindings, *setting.bindings))
        return Setting(configs, tuple(value for value in setting.values if f"{value[0]}={value[1]}" in shared))

    def directory(self, setting: Setting, seed: int) -> pathlib.Path:
        """Returns the directory of a run."""
        return self._sweep.out / setting.name / f"seed_{seed}"

    def _make_run(
        self,
        setting: Setting,
        seed: int,
        steps: int,
        paths: Mapping[str, str] | None = None,
        after: tuple[str, ...] = (),
    ) -> Stage:
        directory = self.directory(setting, seed)
        bindings = (*self._sweep.bindings, *setting.bindings, *(f"{n}='{path}'" for n, path in (paths or {}).items()))
        command = (
            self._script,
            f"--logdir={directory}",
            f"--seed={seed}",
            *(f"--gin_config={config}" for config in setting.configs),
            *(f"--gin_bindings={binding}" for binding in bindings),
            *self._sweep.flags,
        )
        return Stage(
            f"{setting.name}/seed_{seed}",
            command,
            (directory / files.RESULT).exists,
            after,
            steps + _START_STEPS,
            lambda: float(read_last_step(directory)),
        )


def list_stages(sweep: Sweep, planner: Planner) -> list[Stage]:
    """Returns all runs of a sweep, each once, pruned runs first.

    Args:
      sweep: what to run.
      planner: of the sweep.

    Raises:
      SettingError: if a configuration is invalid.
    """
    stages: dict[str, Stage] = {}
    for setting in sweep.settings:
        for stage in planner.make_stages(setting):
            known = stages.setdefault(stage.name, stage)
            if known.command != stage.command:
                raise SettingError(f"{stage.name} would be two different runs; rename a gin file, or leave one out.")
    return sorted(stages.values(), key=lambda stage: bool(stage.after))
