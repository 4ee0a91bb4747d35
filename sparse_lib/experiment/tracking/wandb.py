"""Weights & Biases; WANDB_PROJECT, WANDB_MODE and its other variables configure it."""

from collections.abc import Mapping
from typing import Any

import wandb

from sparse_lib.experiment.tracking.tracked_run import TrackedRun


class WandbTracker:
    """A run of Weights & Biases for each run."""

    def start(self, run: TrackedRun) -> str | None:
        """Starts, or goes on with the same id."""
        config = {**run.settings, **run.description}
        self._run = wandb.init(name=run.name, id=run.id, resume="allow", config=config, dir=run.directory)
        return str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the measurements of a step."""
        self._run.log(dict(values), step=step)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Stores the result as the summary."""
        self._run.summary.update(result or {})
        self._run.finish(exit_code=int(result is None))
