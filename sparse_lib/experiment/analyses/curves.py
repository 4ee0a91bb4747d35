"""Training of curves between checkpoints, resumable."""

import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from sparse_lib.experiment.config.analyses import InterpolateSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.config.optimizer import OptimizerSettings
from sparse_lib.experiment.data import Split
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.signals import Stop
from sparse_lib.experiment.storage.checkpoints import Checkpoints
from sparse_lib.experiment.storage.files import translate_os_error
from sparse_lib.landscape import Bezier, CurveFit, Ends
from sparse_lib.landscape.curve_fit import CHUNK, Examples, in_memory
from sparse_lib.objective import Objective

_DEGREES = {"quadratic": 2, "cubic": 3}
# Time between two checkpoints of a curve (seconds).
SAVE_SECONDS = 30.0


def train(
    experiment: Experiment,
    settings: InterpolateSettings,
    model: keras.Model,
    ends: Ends,
    directory: pathlib.Path,
    stop: Stop,
) -> Bezier:
    """Trains a curve, from its last checkpoint if there is one.

    Args:
      experiment: defines the data set and the default number of steps.
      settings: of the path, which is a curve.
      model: the network; it does not change.
      ends: of the curve, and the subspace that it stays in.
      directory: of the checkpoints; it holds those of this curve or none.
      stop: checked whenever the state is saved.

    Returns:
      The trained curve.

    Raises:
      Interrupted: after SIGINT or SIGTERM.
    """
    steps = settings.steps or experiment.training.total_steps
    optimizer = OptimizerSettings(name=settings.optimizer, learning_rate=settings.learning_rate)
    fit = CurveFit(
        Objective(model),
        ends.start,
        ends.end,
        make_examples(experiment.dataset.train),
        optimizer=optimizer.build(optimizer.rate(steps)),
        degree=_DEGREES[settings.path],
        masks=ends.masks,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    with translate_os_error(directory):
        directory.mkdir(exist_ok=True)
    states = Checkpoints(directory, fit.state(), keep=1, network=f"the curve of {model.name}")
    states.restore_latest()
    progress, saved = Progress(f"{settings.path} curve", steps, fit.step), time.monotonic()
    try:
        while fit.step < steps:
            losses = fit.run(min(CHUNK, steps - fit.step))
            progress.update(fit.step, f"loss {losses.mean():.4f}")
            if fit.step == steps or stop or time.monotonic() - saved > SAVE_SECONDS:
                states.save(fit.step)
                saved = time.monotonic()
            stop.raise_if_requested(fit.step)
    finally:
        progress.close()
    return fit.curve()


def make_examples(split: Split) -> Examples:
    """Returns the images of a split as examples of a curve fit; those on disk are read batch by batch.

    Args:
      split: of the data.
    """
    if isinstance(split.images, np.ndarray):
        return in_memory(split.images, split.labels)
    shape, labels = split.images.shape[1:], tf.constant(split.labels)

    def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.numpy_function(lambda wanted: split.images[wanted], [rows], tf.float32)
        return tf.ensure_shape(images, [*rows.shape, *shape]), tf.gather(labels, rows)

    return Examples(batch, len(split))
