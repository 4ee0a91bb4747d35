"""TensorBoard scalars, written without TensorFlow operations."""

import pathlib
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class ScalarWriter:
    """Event file to which all scalars of a step are written as one message."""

    def __init__(self, directory: pathlib.Path, first_step: int) -> None:
        """Opens a new event file.

        Args:
          directory: of the event files.
          first_step: TensorBoard discards what an earlier, killed process wrote from this step on (step).
        """
        self._writer = EventFileWriter(str(directory))
        self._writer.add_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the scalars of one step.

        Args:
          step: of the values (step).
          values: by name.
        """
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._writer.add_event(Event(step=step, summary=summary))

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()
