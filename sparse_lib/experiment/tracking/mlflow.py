"""MLflow; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its other variables configure it."""

from collections.abc import Mapping
from typing import Any

import mlflow

from sparse_lib.experiment.tracking.tracked_run import TrackedRun


class MlflowTracker:
    """A run of MLflow for each run."""

    def start(self, run: TrackedRun) -> str | None:
        """Starts, or goes on with the same id."""
        active = mlflow.start_run(run_id=run.id, run_name=run.name)
        if run.id is None:
            mlflow.log_params({**run.settings, **run.description})
        return str(active.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the measurements of a step."""
        mlflow.log_metrics(dict(values), step=step)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Stores the result as a file."""
        if result is not None:
            mlflow.log_dict(dict(result), "result.json")
        mlflow.end_run("FINISHED" if result is not None else "KILLED")
