"""Command lines: flags, exit statuses, and errors in one line."""

import contextlib
import logging as standard_logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging

from sparse_lib._utils.errors import InputError
from sparse_lib._utils.strategy_names import STRATEGIES
from sparse_lib.experiment.command_line import help_text
from sparse_lib.experiment.command_line.options import DEFAULT_LOGDIR
from sparse_lib.experiment.runtime.errors import Interrupted, RunError, SettingError

FAILURE, USAGE_ERROR, SIGNALLED = 1, 2, 128
_HELP = {"--help", "-help", "-h", "--helpshort"}
_SMALLER = "choose a smaller network, batch or data set"


def define_common_flags() -> None:
    """Defines the flags shared by all entry points; a second call changes nothing."""
    if "gin_config" in flags.FLAGS:
        return
    # They count as flags of the entry point, so that its --help lists them.
    flags.disclaim_key_flags()
    flags.DEFINE_string("logdir", DEFAULT_LOGDIR, "Directory of the run.")
    flags.DEFINE_multi_string("gin_config", [], "Path of a gin file; several are read in order")
    flags.DEFINE_multi_string("gin_bindings", [], "A binding such as 'training.total_steps=100'; it wins over files")
    flags.DEFINE_multi_string("updater_module", [], "A Python module that registers updaters of your own.")
    flags.DEFINE_string("preload_gin_config", "", "A gin file, such as another run's operative_config.gin, read first.")
    flags.DEFINE_integer(
        "seed", None, "Seed of everything random in the run; 0 unless a gin file sets training.seed.", 0
    )
    flags.DEFINE_enum("strategy", "auto", STRATEGIES, "Where to compute.")
    flags.DEFINE_string("tpu", "", "Address of the TPU, for --strategy=tpu.")
    flags.DEFINE_bool("use_tpu", None, "Of published command lines: --use_tpu means --strategy=tpu.")
    flags.DEFINE_string("master", "", "Of published command lines: means --tpu.")
    flags.DEFINE_string("tpu_job_name", "", "Of published command lines: changes nothing, --tpu names the workers.")


def define_overwrite_flag() -> None:
    """Defines --overwrite, for entry points that write results; a second call changes nothing."""
    if "overwrite" not in flags.FLAGS:
        flags.disclaim_key_flags()
        flags.DEFINE_bool("overwrite", False, "Delete what this command left in --logdir and start again.")


def define_mode(modes: Sequence[str], text: str) -> None:
    """Defines --mode, overriding an earlier definition.

    Args:
      modes: its values, the default first.
      text: description in --help.
    """
    flags.disclaim_key_flags()
    flags.DEFINE_enum("mode", modes[0], modes, text, allow_override=True)


def add_dashes(arguments: Sequence[str]) -> list[str]:
    """Adds the dashes that published commands omit: `logdir=DIR` becomes `--logdir=DIR`.

    Args:
      arguments: of the command line, the name of the program first.

    Returns:
      The arguments, with dashes before each `flag=value` of a known flag.
    """
    return [f"--{a}" if re.match(r"\w+=", a) and a.split("=", 1)[0] in flags.FLAGS else a for a in arguments]


def run(main: Callable[[], int | None], more_help: Callable[[], str] | None = None) -> None:
    """Parses the flags, runs an entry point and exits with the status of `exit_status`.

    Args:
      main: the entry point.
      more_help: returns what --help prints after the flags.
    """

    def parse(arguments: Sequence[str]) -> Sequence[str]:
        if _HELP & set(arguments[1:]):
            _print_help(more_help)
            sys.exit(0)
        app.define_help_flags()
        try:
            rest = flags.FLAGS(add_dashes(arguments))
        except flags.Error as error:
            sys.exit(_print_error(str(error), USAGE_ERROR))
        except SystemExit:
            # Absl's --help exits with status 1.
            sys.exit(0)
        if len(rest) > 1:
            sys.exit(_print_error(f"{rest[1]!r} is not a flag; see --help.", USAGE_ERROR))
        return rest

    def log_and_run(_: Sequence[str]) -> int:
        logging.use_absl_handler()
        logging.set_verbosity(max(flags.FLAGS.verbosity, logging.INFO))
        if sys.stderr.isatty():
            logging.get_absl_handler().setFormatter(_TerminalFormatter())
        return exit_status(main)

    app.run(log_and_run, flags_parser=parse)


class _TerminalFormatter(standard_logging.Formatter):
    """Leaves out time and place, which a log file has."""

    def format(self, record: standard_logging.LogRecord) -> str:
        """Returns the message, with its level unless it is information."""
        level = "" if record.levelno <= standard_logging.INFO else f"{record.levelname.lower()}: "
        return f"{level}{record.getMessage()}"


def _print_help(more_help: Callable[[], str] | None) -> None:
    what = sys.modules["__main__"].__doc__ or ""
    parts = [help_text.format_help(what, flags.FLAGS.get_key_flags_for_module(sys.argv[0]))]
    if more_help is not None:
        parts.append(more_help())
    sys.stdout.write("\n\n".join(filter(None, parts)) + "\n")


def exit_status(main: Callable[[], int | None]) -> int:
    """Calls the body of an entry point, and reports an error that is for the user in one line of standard error.

    Args:
      main: returns the exit status; None means 0.

    Returns:
      What `main` returns; 2 after an invalid command line or configuration (`SettingError`), 1 after another
      `InputError` or `RunError`, 128 + signal after SIGINT or SIGTERM. Any other exception is a bug and passes.
    """
    try:
        return main() or 0
    except Interrupted as stop:
        logging.info("%s", stop)
        return SIGNALLED + stop.signal
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except (InputError, RunError) as error:
        logging.debug("", exc_info=error)
        return _print_error(str(error), USAGE_ERROR if isinstance(error, SettingError) else FAILURE)
    except MemoryError as error:
        logging.debug("", exc_info=error)
        return _print_error(f"The memory is not enough ({error or 'MemoryError'}); {_SMALLER}.", FAILURE)
    except Exception as error:
        # TensorFlow is imported late, hence its class of this error is known by name only.
        if type(error).__name__ != "ResourceExhaustedError":
            raise
        logging.debug("", exc_info=error)
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        return _print_error(f"The memory is not enough ({reason}); {_SMALLER}.", FAILURE)


def import_tensorflow() -> None:
    """Imports TensorFlow without printing its notices about instruction sets, oneDNN and missing devices.

    This takes seconds: an entry point calls it when its work starts, after --help.
    """
    # Its errors are shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _mute_stderr():
        import tensorflow as tf

        # On a machine without a driver, the first look for GPUs prints errors that are none.
        tf.config.list_physical_devices("GPU")
    standard_logging.getLogger("tensorflow").setLevel(standard_logging.ERROR)
    # Some of its modules log through absl, one line per checkpoint.
    logging.get_absl_handler().addFilter(
        lambda record: record.levelno > standard_logging.INFO or "tensorflow" not in record.pathname
    )


@contextlib.contextmanager
def _mute_stderr() -> Iterator[None]:
    """Holds back the standard error of C++ code, and prints it if an exception leaves the block."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as muted:
        os.dup2(muted.fileno(), 2)
        try:
            yield
        except BaseException:
            muted.seek(0)
            os.write(kept, muted.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _print_error(message: str, status: int) -> int:
    # Gin appends the name of the configurable to every error.
    lines = [line.strip() for line in message.splitlines() if not line.startswith("  In call to configurable")]
    sys.stderr.write(f"error: {' '.join(filter(None, lines))}\n")
    return status
