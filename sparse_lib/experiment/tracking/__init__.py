"""Trackers of experiments: what they are told of a run, those that are known by name, and names in groups."""

from sparse_lib.experiment.tracking.tracked_run import TrackedRun
from sparse_lib.experiment.tracking.tracker import Tracker

__all__ = ["TrackedRun", "Tracker"]
