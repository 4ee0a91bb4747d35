"""TensorBoard: scalars in groups, images, histograms, hyperparameters and the configuration of a run."""

import pathlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.hparams.api import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from sparse_lib.experiment.tracking.tags import group_name
from sparse_lib.experiment.tracking.tracked_run import TrackedRun

Arrays = Mapping[str, np.ndarray]
NO_ARRAYS: Arrays = MappingProxyType({})
# Bars of a histogram (count), as many as TensorBoard's own.
_BUCKETS = 30
# Groups of settings that are hyperparameters; the others are in the text of the configuration.
_HYPERPARAMETERS = ("mask_updater", "masks", "network", "oneshot", "optimizer", "pruning", "training")


class ScalarWriter:
    """Event file to which all that is known of a step is written as one message, without TensorFlow operations."""

    def __init__(self, directory: pathlib.Path, first_step: int) -> None:
        """Opens a new event file.

        Args:
          directory: of the event files.
          first_step: TensorBoard discards what an earlier, killed process wrote from this step on (step).
        """
        self._writer = EventFileWriter(str(directory))
        self._first_step = first_step
        self._writer.add_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def describe(self, run: TrackedRun) -> None:
        """Adds the configuration as text, and settings as hyperparameters.

        Args:
          run: that is written.
        """
        chosen = {
            name: value
            for name, value in run.parameters.items()
            if name in run.description or name.partition(".")[0] in _HYPERPARAMETERS
        }
        for summary in (text_pb("configuration", f"```\n{run.config}\n```"), hparams_pb(chosen, trial_id=run.name)):
            self._writer.add_event(Event(step=self._first_step, summary=summary))

    def write(
        self, step: int, values: Mapping[str, float], images: Arrays = NO_ARRAYS, histograms: Arrays = NO_ARRAYS
    ) -> None:
        """Adds the scalars, images and histograms of one step.

        Args:
          step: of the values (step).
          values: by name; each gets a group, see `group_name`.
          images: grey levels by name, uint8, [height, width].
          histograms: values by name, of any shape.
        """
        summary = Summary(
            value=[Summary.Value(tag=group_name(name), simple_value=value) for name, value in values.items()]
        )
        summary.value.extend(Summary.Value(tag=name, image=_encode(image)) for name, image in images.items())
        summary.value.extend(Summary.Value(tag=name, histo=_count(array)) for name, array in histograms.items())
        self._writer.add_event(Event(step=step, summary=summary))

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


def _encode(image: np.ndarray) -> Summary.Image:
    height, width = image.shape
    png = tf.io.encode_png(image[..., None]).numpy()
    return Summary.Image(height=height, width=width, colorspace=1, encoded_image_string=png)


def _count(array: np.ndarray) -> HistogramProto:
    counts, edges = np.histogram(array, bins=_BUCKETS)
    return HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=array.size,
        sum=float(np.sum(array, dtype=np.float64)),
        sum_squares=float(np.sum(np.square(array, dtype=np.float64))),
        bucket_limit=edges[1:],
        bucket=counts,
    )
