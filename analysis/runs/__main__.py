"""Lists the runs below a directory: their state, how far they are, how good, and what differs between them.

  python -m analysis.runs runs/sweep --sort=-accuracy

It reads the files of the runs and starts nothing; runs that train meanwhile are not disturbed.
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

from analysis.runs import listing, table
from sparse_lib.experiment.command_line import cli

_CLEAR = "\x1b[H\x1b[J"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the list that the command line asks for.

    Args:
      arguments: command line; None takes that of the process.

    Returns:
      Exit status, see `cli.exit_status`.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis.runs", description="Lists the runs below a directory.")
    parser.add_argument("directories", nargs="+", type=pathlib.Path, metavar="DIR", help="holds runs, at any depth")
    keys = [sign + key for key in table.KEYS for sign in ("", "-")]
    help_of_sort = f"one of {', '.join(table.KEYS)}; with a minus sign, as in --sort=-accuracy, the highest come first"
    parser.add_argument("--sort", choices=keys, default="run", metavar="KEY", help=help_of_sort)
    parser.add_argument("--json", action="store_true", help="print an object whose `runs` has one object per run")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=5.0,
        metavar="SECONDS",
        help="print the list again every 5 seconds, or every SECONDS, until Ctrl-C",
    )
    options = parser.parse_args(arguments)
    if options.watch is not None and not options.watch > 0:
        parser.error(f"--watch={options.watch} must be above 0")
    return cli.exit_status(lambda: _print(options))


def _print(options: argparse.Namespace) -> None:
    try:
        while True:
            rows = table.sort_rows(listing.list_runs(options.directories), options.sort)
            text = table.format_rows(rows) if options.json else table.format_table(rows)
            clear = _CLEAR if options.watch is not None and sys.stdout.isatty() else ""
            sys.stdout.write(f"{clear}{text}\n")
            sys.stdout.flush()
            if options.watch is None:
                return
            time.sleep(options.watch)
    except KeyboardInterrupt:
        # The way to end it.
        sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
