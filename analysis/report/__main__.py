"""One page about any set of runs: results, the paper's claims, figures.

  python -m analysis.report --runs=runs/study --out=runs/report

The page, index.html, needs no network and no other file. Beside it lie its figures as SVG, PDF and PNG, its tables as
CSV, and the verdicts on the claims in report.json.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.runtime.errors import RunError


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report that the command line asks for.

    Args:
      arguments: of the command line; None takes those of the process.

    Returns:
      Exit status: 0, or 1 after a failure that is told in one line.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="Writes one page about runs.")
    parser.add_argument("--runs", action="append", required=True, metavar="DIR", help="holds runs; may be repeated")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="where the page goes")
    asked = parser.parse_args(arguments)
    for top in asked.runs:
        if not pathlib.Path(top).is_dir():
            parser.error(f"--runs={top} is no directory; name one that holds runs.")
    cli.import_tensorflow()
    from analysis.report import overview

    try:
        written = overview.write(asked.runs, asked.out)
    except RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{written}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
