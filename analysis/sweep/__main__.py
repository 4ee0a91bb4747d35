"""Trains a grid of settings, or searches for good ones.

  python -m analysis.sweep --gin_config=configs/rigl.gin --over SPARSITY=0.8,0.9 --seeds=3 --out=runs/sweep
  python -m analysis.sweep --gin_config=configs/rigl.gin --tune mask_updater.init_drop_fraction=0.1:0.6 \
      --trials=15 --seeds=2 --out=runs/tuning

Every run is a process of train.py, whose command can be typed by hand; --list prints them. A finished run is not
repeated, an interrupted one resumes, and more values or seeds run only what is new.
"""

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.jobs import places, protocol
from sparse_lib.experiment.runtime.errors import SettingError

if TYPE_CHECKING:
    from analysis.sweep.grid import Sweep


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --gin_config=FILE[,FILE...] [--over NAME=VALUE,...] [--tune NAME=LOW:HIGH] [flags] [-- FLAGS]",
    )
    grid = parser.add_argument_group("what to run")
    grid.add_argument(
        "--gin_config",
        action="append",
        default=[],
        metavar="FILE[,FILE...]",
        help="gin files, read in order; given several times, it is a dimension of the grid",
    )
    grid.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="a setting or macro and its values; may be repeated, and all combinations run",
    )
    grid.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a binding of all runs, as of train.py",
    )
    grid.add_argument("--seeds", default="3", help="number of seeds, or FIRST-LAST (default: 3, the seeds 0 to 2)")
    grid.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/sweep"), help="directory of the runs")
    grid.add_argument("--list", action="store_true", help="print the commands and run nothing")
    grid.add_argument("flags", nargs="*", metavar="FLAGS", help="after --: other flags of train.py, of all runs")
    search = parser.add_argument_group("search for good values (optuna)")
    search.add_argument(
        "--tune",
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH[:log]",
        help="a setting and its range, integers if both ends are, or its choices as NAME=VALUE,...; may be repeated",
    )
    search.add_argument("--trials", type=int, default=15, help="settings to try, for each point of the grid")
    search.add_argument("--search_seed", type=int, default=0, help="seed of the search")
    search.add_argument("--no_pruning", action="store_true", help="let bad trials finish")
    places.add_arguments(parser)
    parser.add_argument("--jobs", type=int, default=0, help="runs at once; one per core if not given, on a cluster all")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Runs what the command line describes.

    Args:
      words: arguments; None takes those of the process.

    Returns:
      Exit status, see `cli.exit_status`.
    """
    arguments = make_parser().parse_args(words)
    return cli.exit_status(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    # What is typed is checked before TensorFlow, which checks what is bound, is imported.
    from analysis.sweep import values  # noqa: PLC0415

    for name, least in (("jobs", 0), ("trials", 1), ("search_seed", 0)):
        if getattr(arguments, name) < least:
            raise SettingError(f"--{name}={getattr(arguments, name)} must be at least {least}.")
    place = places.make_place(vars(arguments))
    if arguments.tune and arguments.list:
        raise SettingError("--list prints the commands of a grid; a search draws its values as it goes. Leave one out.")
    over = [values.parse_dimension(text) for text in arguments.over]
    ranges = [values.parse_range(text) for text in arguments.tune]
    configs = [tuple(part.strip() for part in text.split(",") if part.strip()) for text in arguments.gin_config]
    seeds = values.parse_seeds(arguments.seeds)
    protocol.require_checkout("A sweep")
    cli.import_tensorflow()
    protocol.start_logging()
    from analysis.sweep import grid  # noqa: PLC0415

    settings = grid.make_settings(configs, over)
    sweep = grid.Sweep(arguments.out, settings, seeds, tuple(arguments.gin_bindings), tuple(arguments.flags))
    if ranges:
        from analysis.sweep import search  # noqa: PLC0415

        plan = search.Search(sweep, tuple(ranges), arguments.trials, arguments.search_seed, not arguments.no_pruning)
        return protocol.run_until_interrupted(lambda: search.run(plan, arguments.jobs, place))
    return _run_grid(arguments, sweep, place)


def _run_grid(arguments: argparse.Namespace, sweep: "Sweep", place: places.Place) -> int:
    from analysis.sweep import grid, runs  # noqa: PLC0415

    planner = grid.Planner(sweep)
    stages = grid.list_stages(sweep, planner)
    if arguments.list:
        for stage in stages:
            sys.stdout.write(f"python {shlex.join(stage.command)}\n")
        return 0
    return protocol.run_until_interrupted(lambda: runs.run(sweep, planner, stages, arguments.jobs, place))


if __name__ == "__main__":
    sys.exit(main())
