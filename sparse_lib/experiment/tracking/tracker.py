"""The protocol of trackers, and the trackers of a run as one."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from absl import logging

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.tracking.tags import group_name
from sparse_lib.experiment.tracking.tracked_run import TrackedRun, read_ids


class Tracker(Protocol):
    """Follows a run; `--tracker=MODULE.CLASS` makes one without arguments."""

    def start(self, run: TrackedRun) -> str | None:
        """Begins to follow a run, before its first step in this process.

        Args:
          run: what runs.

        Returns:
          An id, which is `run.id` when the run goes on after an interruption; None for no id.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the measurements of a log step.

        Args:
          step: of the measurements; after an interruption, steps since the last checkpoint come again (step).
          values: by name, in groups such as `accuracy/test`.
        """

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Ends.

        Args:
          result: of the training, as in result.json; None for a run that was interrupted or failed.
        """


class Trackers:
    """The trackers of a run. One that fails is left out with a warning: a run does not depend on who watches."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        """Stores the trackers.

        Args:
          trackers: by name.
        """
        self._made, self._running = dict(trackers), dict[str, Tracker]()

    def start(self, run: TrackedRun) -> None:
        """Starts every tracker, and stores the ids that they give.

        Args:
          run: what runs.

        Raises:
          RunError: if a tracker cannot start: nothing is lost yet.
        """
        ids = read_ids(run.directory) if self._made else {}
        found = dict(ids)
        for name, tracker in self._made.items():
            try:
                given = tracker.start(dataclasses.replace(run, id=ids.get(name)))
            except Exception as error:
                reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
                raise RunError(f"--tracker={name} cannot start ({reason}); mend that, or leave it out.") from error
            self._running[name] = tracker
            if given is not None:
                found[name] = given
        if found != ids:
            files.write_json(run.directory / files.TRACKING, found)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Passes the measurements of a log step on, their names in groups.

        Args:
          step: of the measurements (step).
          values: by name in metrics.jsonl.
        """
        grouped = {group_name(name): value for name, value in values.items()}
        for name, tracker in list(self._running.items()):
            try:
                tracker.log(step, grouped)
            except Exception as error:
                self._leave_out(name, error)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Ends every tracker that has started; a second call does nothing.

        Args:
          result: of the training; None for a run that was interrupted or failed.
        """
        for name, tracker in list(self._running.items()):
            try:
                tracker.finish(result)
            except Exception as error:
                self._leave_out(name, error)
        self._running.clear()

    def _leave_out(self, name: str, error: Exception) -> None:
        logging.warning("--tracker=%s fails and is left out from here on: %s", name, error)
        del self._running[name]


NO_TRACKERS = Trackers({})
