"""Stages of a study: training runs, some from the masks of another, and analyses of what they left."""

import pathlib
import signal
from collections.abc import Callable, Sequence

from absl import flags, logging

from sparse_lib.experiment.jobs.stages import Stage, read_last_step
from sparse_lib.experiment.runtime import signals
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files

ROOT = pathlib.Path(__file__).parents[3]
TRAIN = "train.py"


def make_command(
    script: str, logdir: pathlib.Path, config: str, bindings: Sequence[str] = (), flags: Sequence[str] = ()
) -> tuple[str, ...]:
    """Returns the command line of an entry point, without the interpreter.

    Args:
      script: path of the entry point.
      logdir: directory of the run or analysis.
      config: path of the gin file.
      bindings: gin bindings on top of the file.
      flags: other flags, such as `--seed=1`.
    """
    return (
        script,
        f"--logdir={logdir}",
        *flags,
        f"--gin_config={config}",
        *(f"--gin_bindings={binding}" for binding in bindings),
    )


def make_training(
    out: pathlib.Path,
    name: str,
    config: str,
    bindings: Sequence[str] = (),
    *,
    shared: Sequence[str] = (),
    masks_of: str | None = None,
    seed: int,
    steps: int,
    step_work: float = 1.0,
    start_work: float = 0.0,
    script: str = TRAIN,
) -> Stage:
    """Returns a training run as a stage, whose directory is `out / name`.

    Args:
      out: directory of the study.
      name: of the stage.
      config: path of the gin file.
      bindings: gin bindings of this run.
      shared: gin bindings of all runs, which come first.
      masks_of: name of the training stage whose masks and initial weights the run may take; it waits for that stage.
      seed: of the run.
      steps: length of the run (step).
      step_work: work of one step, in the measure that all stages of the job share.
      start_work: work beside the steps, in that measure.
      script: path of the entry point.
    """
    directory = out / name
    pruned = (f"PRUNED_RUN='{out / masks_of}'", f"PRUNED_START='{out / masks_of / 'ckpt-0'}'") if masks_of else ()
    return Stage(
        name,
        make_command(script, directory, config, (*shared, *pruned, *bindings), (f"--seed={seed}",)),
        (directory / files.RESULT).exists,
        (masks_of,) if masks_of else (),
        steps * step_work + start_work,
        lambda: read_last_step(directory) * step_work,
    )


def is_interpolated(summary: pathlib.Path) -> bool:
    """Returns whether an interpolation, which writes its summary first, is complete.

    Args:
      summary: path of its summary.
    """
    return summary.exists() and files.read_json(summary, "delete it to compute it again").get("complete") is True


def require_checkout(what: str, script: pathlib.Path = ROOT / TRAIN) -> None:
    """Checks that the entry points are there, which an installed package lacks.

    Args:
      what: needs them, as the subject of a sentence.
      script: path of an entry point.

    Raises:
      RunError: if they are not.
    """
    if not script.is_file():
        raise RunError(
            f"{what} needs a source checkout, and {ROOT} is not one: clone the repository and start it there."
        )


def start_logging() -> None:
    """Logs as the entry points do, in a command line without absl's flags; call it after TensorFlow is imported."""
    flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)


def run_until_interrupted(work: Callable[[], None]) -> int:
    """Runs a resumable job, which SIGINT and SIGTERM stop.

    Args:
      work: runs the job.

    Returns:
      The exit status.
    """
    try:
        with signals.keyboard_interrupts():
            work()
    except KeyboardInterrupt:
        logging.info("Stopped; the same command goes on from there.")
        return 128 + signal.SIGINT
    return 0
