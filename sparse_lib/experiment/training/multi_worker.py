"""Multi-worker runs: every worker computes, the first one writes the run directory."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from sparse_lib._utils import distribute
from sparse_lib.experiment.runtime.errors import RunError

# States of the run directory that the writer broadcasts in place of a step.
FINISHED, EMPTY = -2, -1


def is_writer() -> bool:
    """Returns whether this process writes the run directory; of several workers, the first one does."""
    resolver = _find_resolver()
    return resolver is None or _is_first(resolver)


def is_first() -> bool:
    """Returns whether this process is the first worker in TF_CONFIG, under any strategy."""
    return _is_first(tf.distribute.cluster_resolver.TFConfigClusterResolver())


def _is_first(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> bool:
    jobs = resolver.cluster_spec().jobs
    first = "chief" if "chief" in jobs else "worker"
    return not jobs or (resolver.task_type, resolver.task_id) == (first, 0)


def _find_resolver() -> tf.distribute.cluster_resolver.ClusterResolver | None:
    strategy = tf.distribute.get_strategy()
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return strategy.cluster_resolver if several else None


def broadcast_step(step: int | None = None) -> int:
    """Sends the state of the run directory from the writer to every worker; waits for all workers.

    Args:
      step: of the last checkpoint, `EMPTY` or `FINISHED`; given by the writer alone.

    Returns:
      The value given by the writer.
    """
    if _find_resolver() is None:
        return EMPTY if step is None else step
    strategy = tf.distribute.get_strategy()

    @tf.function(autograph=False)
    def total(share: tf.Tensor) -> tf.Tensor:
        counted = distribute.per_replica(strategy, tf.identity, share)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, counted, None)

    # Every replica of the writer contributes the value once.
    own = strategy.num_replicas_in_sync // _count_workers()
    return int(total(tf.constant(0 if step is None else step, tf.int64))) // own


def _count_workers() -> int:
    resolver = _find_resolver()
    return 1 if resolver is None else sum(len(tasks) for tasks in resolver.cluster_spec().as_dict().values())


@contextlib.contextmanager
def scratch_directory(directory: pathlib.Path, step: int) -> Iterator[pathlib.Path]:
    """Provides the scratch run directory of a worker that is not the writer.

    Args:
      directory: of the run, shared by all workers.
      step: of the checkpoint to resume from, or `EMPTY`.

    Yields:
      A temporary directory with that checkpoint and the first one.

    Raises:
      RunError: if this worker does not see the checkpoint.
    """
    with tempfile.TemporaryDirectory(prefix="sparse-worker-") as own:
        for needed in {0, step} if step != EMPTY else ():
            found = list(directory.glob(f"ckpt-{needed}.*"))
            if not found:
                raise RunError(f"This worker does not see {directory}/ckpt-{needed}; --logdir must be a shared folder.")
            for file in found:
                shutil.copy(file, own)
        yield pathlib.Path(own)


@contextlib.contextmanager
def report_lost_worker() -> Iterator[None]:
    """Reports the loss of another worker in one line.

    Yields:
      Nothing.

    Raises:
      RunError: if a collective operation fails among several workers.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.InternalError, tf.errors.AbortedError) as error:
        if _find_resolver() is None:
            raise
        raise RunError(
            "Another worker of this run is gone; start all workers again with the same command, and the run goes on "
            "from its last checkpoint."
        ) from error
