"""Iterative magnitude pruning with rewinding as one resumable graph of runs, with branches, figures and a verdict.

  python -m analysis.tickets --out=runs/tickets --levels=10 --seeds=3 --branches=reinit,shuffle

Every run is one of train.py, whose command --list prints. A finished run is not repeated, and an interrupted one
resumes.
"""

import argparse
import logging
import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import logging as absl_logging

from analysis.tickets import graph, landscape, levels
from analysis.tickets.branches import BRANCHES
from analysis.tickets.plan import LEARNING_RATE, Plan, read_steps
from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.jobs import places, protocol
from sparse_lib.experiment.jobs.protocol import ROOT
from sparse_lib.experiment.jobs.stages import Job
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    default = Plan(pathlib.Path("runs/tickets"))
    parser = argparse.ArgumentParser(prog="python -m analysis.tickets", description=(__doc__ or "").split("\n")[0])

    def add(name: str, text: str, **options: object) -> None:
        value = getattr(default, name.strip("-"), None)
        parser.add_argument(name, default=value, help=text, **options)  # type: ignore[arg-type]

    add("--out", "directory of the study", type=pathlib.Path)
    add("--network", "file of configs/networks")
    add("--protocol", "file of configs/protocols; mnist if the network's file includes none; empty for none")
    add("--data", "data set, such as digits_large or mnist; empty for that of the network's file")
    add("--levels", "prunings after the dense network", type=int)
    add("--rewind", "step of the dense run whose weights a level starts from, or lr: learning-rate rewinding")
    add("--seeds", "chains of levels", type=int)
    parser.add_argument("--steps", type=int, help="length of each run; that of the protocol if not given")
    add("--fraction", "of the weights left that a level removes", type=float)
    add("--scope", "weights are ranked in each layer, or all together", choices=("layer", "global"))
    add("--output_rate", "factor of the fraction in the output layer", type=float)
    parser.add_argument("--branches", default="", help=f"names of {', '.join(BRANCHES)}, separated by commas")
    parser.add_argument("--branch_levels", default="", help="levels of the branches, such as 3,7; all if not given")
    parser.add_argument("--landscape", default="", help=f"analyses along the levels: {', '.join(landscape.KINDS)}")
    parser.add_argument("--gin_bindings", action="append", default=[], help="binding of all runs; may be repeated")
    parser.add_argument("--jobs", type=int, default=0, help="parallel processes; one per core if not given")
    add("--runs_in_process", "runs of one process, which shares its start among them", type=int)
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    places.add_arguments(parser)
    return parser


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Makes the plan that a command line describes.

    Args:
      arguments: parsed by `make_parser`.

    Returns:
      The plan.

    Raises:
      RunError: for a value out of range.
    """
    for name, least in (("levels", 0), ("seeds", 1), ("steps", 1), ("jobs", 0), ("runs_in_process", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise RunError(f"--{name}={value} must be at least {least}.")
    for name, least in (("fraction", 0), ("output_rate", 0)):
        value = getattr(arguments, name)
        if not least <= value <= 1 or (name == "fraction" and value in (0, 1)):
            raise RunError(f"--{name}={value} must be a fraction between 0 and 1.")
    plan = Plan(
        # The stages run in the checkout, whatever the current directory is.
        out=arguments.out.resolve(),
        network=arguments.network,
        protocol=arguments.protocol,
        data=arguments.data,
        levels=arguments.levels,
        rewind=_parse_rewinding(str(arguments.rewind)),
        seeds=arguments.seeds,
        fraction=arguments.fraction,
        scope=arguments.scope,
        output_rate=arguments.output_rate,
        branches=tuple(filter(None, arguments.branches.split(","))),
        landscape=_parse_kinds(arguments.landscape),
        branch_levels=_parse_levels(arguments.branch_levels, arguments.levels),
        bindings=tuple(arguments.gin_bindings),
        runs_in_process=arguments.runs_in_process,
    )
    plan = plan._replace(steps=arguments.steps or read_steps(plan.gin_files))
    if too_late := [step for step in levels.list_rewinding_steps(plan) if step > plan.steps]:
        raise RunError(f"The weights of step {too_late[0]} are beyond the {plan.steps} steps of a run.")
    return plan


def _parse_rewinding(text: str) -> int | str:
    if text != LEARNING_RATE and not text.isdecimal():
        raise RunError(f"--rewind={text} must be a step, such as 0 or 500, or {LEARNING_RATE}.")
    return text if text == LEARNING_RATE else int(text)


def _parse_levels(text: str, last: int) -> tuple[int, ...]:
    words = list(filter(None, text.split(",")))
    if bad := [word for word in words if not word.isdecimal() or not 1 <= int(word) <= last]:
        raise RunError(f"--branch_levels={text}: {bad[0]} is no level from 1 to {last}.")
    return tuple(map(int, words))


def _parse_kinds(text: str) -> tuple[str, ...]:
    words = tuple(filter(None, text.split(",")))
    if unknown := [word for word in words if word not in landscape.KINDS]:
        raise RunError(f"--landscape={text}: {unknown[0]} is none of {', '.join(landscape.KINDS)}.")
    return words


def run_study(plan: Plan, jobs: int = 0, place: places.Place = places.LOCAL) -> None:
    """Runs the unfinished runs of a study.

    Args:
      plan: size of the study.
      jobs: parallel processes; 0 means one per core (count).
      place: where the stages run.

    Raises:
      RunError: if a run fails, or the directory holds a study of other settings.
    """
    protocol.require_checkout("A study of tickets")
    Job("tickets", graph.make_stages(plan), plan.out / "logs", jobs=jobs, cwd=ROOT, place=place).run()
    sys.stdout.write(write_results(plan))


def write_results(plan: Plan) -> str:
    """Writes tables, figures and verdict of a finished study.

    Args:
      plan: size of the study.

    Returns:
      The accuracy by level and branch and the verdict, as text.
    """
    cli.import_tensorflow()
    # These read checkpoints by TensorFlow, which --list does not need.
    from analysis.claims import paper  # noqa: PLC0415
    from analysis.tickets import claims, figures, summary, tables  # noqa: PLC0415

    runs = levels.make_runs(plan)
    made = tables.make_tables(runs, landscape.make_table(plan, runs))
    verdicts = paper.judge(made.runs, claims.CLAIMS)
    (plan.out / "figures").mkdir(exist_ok=True)
    made.write(plan.out)
    figures.write_figures(made, plan.out / "figures")
    files.write_text(plan.out / "verdict.csv", paper.as_frame(verdicts).to_csv(index=False))
    text = summary.format_summary(made.runs, verdicts)
    files.write_text(plan.out / "summary.txt", f"{text}\n")
    return f"\n{text}\n\nTables, figures and this text are in {plan.out}.\n"


def main(words: Sequence[str] | None = None) -> int:
    """Runs a study from the command line.

    Args:
      words: arguments; None takes those of the process.

    Returns:
      The exit status.
    """
    arguments = make_parser().parse_args(sys.argv[1:] if words is None else words)
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(logging.INFO)
    try:
        plan = make_plan(arguments)
        if arguments.list:
            runs = levels.make_runs(plan)
            analyses = landscape.make_stages(plan, runs, dict.fromkeys((run.directory for run in runs), ""))
            for command in (*(run.command for run in runs), *(stage.command for stage in analyses)):
                sys.stdout.write(f"python {shlex.join(command)}\n")
            return 0
        place = places.make_place(vars(arguments))
        return protocol.run_until_interrupted(lambda: run_study(plan, arguments.jobs, place))
    except RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
