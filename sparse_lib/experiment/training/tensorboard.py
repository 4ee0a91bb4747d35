"""TensorBoard scalars and images; scalars are written without TensorFlow operations."""

import pathlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

NO_IMAGES: Mapping[str, np.ndarray] = MappingProxyType({})


class ScalarWriter:
    """Event file to which all scalars and images of a step are written as one message."""

    def __init__(self, directory: pathlib.Path, first_step: int) -> None:
        """Opens a new event file.

        Args:
          directory: of the event files.
          first_step: TensorBoard discards what an earlier, killed process wrote from this step on (step).
        """
        self._writer = EventFileWriter(str(directory))
        self._writer.add_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float], images: Mapping[str, np.ndarray] = NO_IMAGES) -> None:
        """Adds the scalars and images of one step.

        Args:
          step: of the values (step).
          values: by name.
          images: grey levels by name, uint8, [height, width].
        """
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        summary.value.extend(Summary.Value(tag=name, image=_encode(image)) for name, image in images.items())
        self._writer.add_event(Event(step=step, summary=summary))

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


def _encode(image: np.ndarray) -> Summary.Image:
    height, width = image.shape
    png = tf.io.encode_png(image[..., None]).numpy()
    return Summary.Image(height=height, width=width, colorspace=1, encoded_image_string=png)
