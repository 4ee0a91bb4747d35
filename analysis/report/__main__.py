"""Report on a set of runs: results, verdicts on the papers' claims, figures, and charts of whatever was measured.

  python -m analysis.report --runs=runs/study --out=runs/report

Writes a self-contained page, index.html; its figures as SVG, PDF and PNG; its tables as CSV; and the verdicts as
report.json.
"""

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence

from sparse_lib.experiment.command_line import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report that the command line describes.

    Args:
      arguments: command line; None takes that of the process.

    Returns:
      Exit status, see `cli.exit_status`.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="Writes a report on runs.")
    parser.add_argument("--runs", action="append", required=True, metavar="DIR", help="holds runs; may be repeated")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="directory of the report")
    options = parser.parse_args(arguments)
    # Before TensorFlow is imported, which takes seconds.
    for top in options.runs:
        if not pathlib.Path(top).is_dir():
            sys.stderr.write(f"error: --runs={top} is not a directory; name one that holds runs.\n")
            return cli.FAILURE
    cli.import_tensorflow()
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "analysis.report", *words])
    return cli.exit_status(lambda: _write(options.runs, options.out, command))


def _write(tops: Sequence[str], out: pathlib.Path, command: str) -> None:
    from analysis.report import overview

    sys.stdout.write(f"{overview.write(tops, out, command)}\n")


if __name__ == "__main__":
    sys.exit(main())
