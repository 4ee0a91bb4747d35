"""Several runs of train.py one after another in one process, which imports TensorFlow once.

  python -m sparse_lib.experiment.jobs.series --logdir=runs/a --gin_config=configs/dense.gin then \
      --logdir=runs/b --gin_config=configs/rigl.gin

A finished run is not repeated, and an interrupted one resumes, as with train.py; the results are the same, bit by bit.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags, logging

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.command_line.options import Options
from sparse_lib.experiment.runtime.errors import RunError, SettingError

# Stands between the arguments of two runs.
THEN = "then"


def split_arguments(words: Sequence[str]) -> list[list[str]]:
    """Splits the arguments of a series into those of its runs.

    Args:
      words: of the command line, without the name of the program.

    Returns:
      One list per run.

    Raises:
      SettingError: if a run has no arguments.
    """
    runs: list[list[str]] = [[]]
    for word in words:
        if word == THEN:
            runs.append([])
        else:
            runs[-1].append(word)
    if not all(runs):
        raise SettingError(f"A run has no arguments: write those of train.py, with '{THEN}' between two runs.")
    return runs


def parse_arguments(words: Sequence[str]) -> tuple[Options, pathlib.Path]:
    """Parses the arguments of one run, whatever has been parsed before.

    Args:
      words: as train.py takes them.

    Returns:
      The options and the directory of the run.

    Raises:
      SettingError: for an unknown flag.
    """
    flags.FLAGS.unparse_flags()
    try:
        rest = flags.FLAGS(["series", *cli.add_dashes(["series", *words])[1:]])
    except flags.Error as error:
        raise SettingError(str(error)) from error
    if len(rest) > 1:
        raise SettingError(f"{rest[1]!r} is not a flag of train.py.")
    return Options.from_flags(), pathlib.Path(flags.FLAGS.logdir)


def train_series(words: Sequence[str]) -> None:
    """Trains the runs of a series.

    Args:
      words: see `split_arguments`.

    Raises:
      RunError: if a run cannot be trained.
      Interrupted: after SIGINT or SIGTERM, once the state of the run is saved.
    """
    runs = [parse_arguments(own) for own in split_arguments(words)]
    cli.import_tensorflow()
    import keras  # noqa: PLC0415

    from sparse_lib.experiment.command_line import commands  # noqa: PLC0415
    from sparse_lib.experiment.config import gin_files  # noqa: PLC0415

    for options, directory in runs:
        gin_files.forget()
        # Frees the graphs of the run before, and starts the counters of Keras' names anew.
        keras.utils.clear_session()
        try:
            commands.train(options, directory, overwrite=False)
        except (InputError, RunError) as error:
            raise type(error)(f"{directory}: {error}") from error


def main() -> int:
    """Trains the runs of the command line.

    Returns:
      The exit status.
    """
    cli.define_common_flags()
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    return cli.exit_status(lambda: train_series(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
