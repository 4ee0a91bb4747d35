"""The gradient-flow paper's MNIST protocol from end to end: training, spectra, paths, report.

  python -m analysis.study --out=runs/study --seeds=2 --quick

Every stage is a process of train.py, hessian.py, interpolate.py or the report, so that what is shown here can be typed
by hand. A finished stage is not repeated, and an interrupted one goes on where it stopped.
"""

import argparse
import functools
import json
import logging
import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import logging as absl_logging

from sparse_lib.experiment.jobs.stages import Job, Stage, last_step
from sparse_lib.experiment.runtime import signals
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files

ROOT = pathlib.Path(__file__).parents[1]
# Length of the published runs, over which the published pruning schedule is laid out (step).
PAPER_STEPS = 11_719
PRUNING = {"begin_step": 3000, "end_step": 7000, "frequency": 100}
QUICK_STEPS, QUICK_SEEDS = 2000, 2
_PLUS = ("network.weight_init_method='unit_scaled'",)
_LIU = ("network.weight_init_method='layer_scaled'",)
# Seconds of one core, roughly: they weigh the stages against each other for the time left.
_STEP_SECONDS = {"lenet5": 1 / 110, "mlp": 1 / 500}
_SPECTRUM_SECONDS = {"lenet5": 15.0, "mlp": 40.0}
_START_SECONDS, _PATH_SECONDS, _REPORT_SECONDS = 8.0, 20.0, 60.0


class Network(NamedTuple):
    """A network of the study.

    Attributes:
      configs: folder of its gin files.
      update_freq: steps between mask updates (step), as published.
    """

    configs: str
    update_freq: int


NETWORKS = {"lenet5": Network("configs", 100), "mlp": Network("mlp_configs", 500)}


class Method(NamedTuple):
    """What is trained with every seed.

    Attributes:
      config: gin file.
      bindings: on top of it.
    """

    config: str
    bindings: tuple[str, ...] = ()


# Their masks are those of the pruned network, as in the paper.
METHODS = {
    "lottery": Method("lottery"),
    "prune_restart": Method("prune_restart"),
    "scratch": Method("scratch"),
    "scratch_liu": Method("scratch", _LIU),
    "scratch_plus": Method("scratch", _PLUS),
    "set": Method("set_from_prune"),
    "set_plus": Method("set_from_prune", _PLUS),
    "rigl": Method("rigl_from_prune"),
    "rigl_plus": Method("rigl_from_prune", _PLUS),
    "rigl_inverted_plus": Method("rigl_from_prune", (*_PLUS, "mask_updater.update_alg='rigl_inverted'")),
}
_PRUNED = "prune"
# Trained with every seed too, as solutions that do not share its masks.
APART = (_PRUNED, "dense", "small_dense")
# Whose spectra are taken around mask updates, with the first seed.
SPECTRA = ("set_plus", "rigl_plus", "rigl_inverted_plus")
# Whose way to the pruned solution is looked at, from the start or the end of training: the paper's, and the one that
# trains where the dense initialisation does not.
PATHS = (
    ("lottery", "start"),
    ("lottery", "end"),
    ("scratch", "start"),
    ("scratch", "end"),
    ("scratch_plus", "end"),
)


class Plan(NamedTuple):
    """What a study consists of.

    Attributes:
      out: directory of everything.
      networks: names, of `NETWORKS`.
      data: gin name of the data set.
      seeds: how many runs of each method (count).
      steps: length of each run (step).
    """

    out: pathlib.Path
    networks: tuple[str, ...]
    data: str
    seeds: int
    steps: int


def stages(plan: Plan) -> list[Stage]:
    """All stages of a study, those first that others wait for.

    Args:
      plan: of the study.

    Returns:
      Training, spectra and paths of every network, and the report after all of them.
    """
    found: list[Stage] = []
    for network in plan.networks:
        pruned = _training(plan, network, _PRUNED, 0)
        found.append(pruned)
        for seed in range(1, plan.seeds + 1):
            found += [_training(plan, network, method, seed, after=(pruned.name,)) for method in METHODS]
            found += [_training(plan, network, method, seed) for method in APART]
        found += [_spectra(plan, network, method) for method in SPECTRA]
        for seed in range(1, plan.seeds + 1):
            found += [_path(plan, network, method, seed, end) for method, end in PATHS]
    report = plan.out / "report"
    arguments = ("-m", "analysis.report", f"--runs={plan.out}", f"--out={report}")
    names = tuple(stage.name for stage in found)
    return [*found, Stage("report", arguments, (report / "index.html").exists, names, work=_REPORT_SECONDS)]


def _directory(plan: Plan, network: str, method: str, seed: int) -> pathlib.Path:
    return plan.out / network / f"{method}_{seed}"


def _training(plan: Plan, network: str, method: str, seed: int, after: tuple[str, ...] = ()) -> Stage:
    config, bindings = METHODS.get(method, Method(method))
    directory, pruned = _directory(plan, network, method, seed), _directory(plan, network, _PRUNED, 0)
    said = [f"training.total_steps={plan.steps}", f"training.log_freq={_share(plan, 200)}", f"data.name='{plan.data}'"]
    said.append(f"UPDATE_FREQ={_frequency(plan, network)}")
    if method == _PRUNED:
        said += [f"pruning.{name}={_share(plan, value)}" for name, value in PRUNING.items()]
    if after:
        said += [f"PRUNED_RUN='{pruned}'", f"PRUNED_START='{pruned / 'ckpt-0'}'"]
    if method in SPECTRA and seed == 1:
        said.append("training.save_update_pairs=True")
    work = plan.steps * _STEP_SECONDS[network]

    def done() -> float:
        return work * last_step(directory) / plan.steps

    return Stage(
        f"{network}/{method}_{seed}",
        (
            "train.py",
            f"--logdir={directory}",
            f"--seed={seed}",
            f"--gin_config={NETWORKS[network].configs}/{config}.gin",
            *(f"--gin_bindings={binding}" for binding in [*said, *bindings]),
        ),
        (directory / files.RESULT).exists,
        after,
        work + _START_SECONDS,
        done,
    )


def _share(plan: Plan, steps: int) -> int:
    """A number of steps of the published schedule on the scale of this plan."""
    return max(1, round(steps * plan.steps / PAPER_STEPS))


def _frequency(plan: Plan, network: str) -> int:
    """Steps between mask updates: as published, and at least twenty updates in a short run (step)."""
    return min(NETWORKS[network].update_freq, max(1, plan.steps // 20))


def _spectra(plan: Plan, network: str, method: str) -> Stage:
    directory, every = _directory(plan, network, method, 1), _frequency(plan, network)
    # Before and after the first update and some later ones, and the end.
    updates = [every * n for n in (1, 2, 5, 10)]
    numbers = [number for step in updates for number in (1 - step, -step)] + [plan.steps]
    bindings = (f"hessian.ckpt_ids={numbers}", "hessian.batch_size=10000")
    return Stage(
        f"{network}/hessian_{method}",
        (
            "hessian.py",
            f"--logdir={directory}",
            f"--gin_config={NETWORKS[network].configs}/hessian.gin",
            *(f"--gin_bindings={binding}" for binding in bindings),
        ),
        (directory / files.HESSIAN / f"ckpt-{plan.steps}.json").exists,
        (f"{network}/{method}_1",),
        len(numbers) * _SPECTRUM_SECONDS[network],
    )


def _path(plan: Plan, network: str, method: str, seed: int, end: str) -> Stage:
    run, pruned = _directory(plan, network, method, seed), _directory(plan, network, _PRUNED, 0)
    out = plan.out / network / "paths" / f"{method}_{end}_{seed}"
    return Stage(
        f"{network}/path_{method}_{end}_{seed}",
        (
            "interpolate.py",
            f"--logdir={out}",
            f"--ckpt_start={run / 'ckpt-0' if end == 'start' else run}",
            f"--ckpt_end={pruned}",
            f"--gin_config={NETWORKS[network].configs}/interpolate.gin",
        ),
        functools.partial(_is_complete, out / files.INTERPOLATION_SUMMARY),
        (f"{network}/{method}_{seed}", f"{network}/{_PRUNED}_0"),
        _PATH_SECONDS,
    )


def _is_complete(summary: pathlib.Path) -> bool:
    """Whether an interpolation, which writes its summary first, has come to its end."""
    return summary.exists() and json.loads(summary.read_text(encoding="utf8"))["complete"]


def study(plan: Plan, jobs: int = 0) -> None:
    """Runs what is not finished.

    Args:
      plan: of the study.
      jobs: processes at a time; 0 means one a core (count).

    Raises:
      RunError: if a stage fails, or other settings lie in the directory.
    """
    if not (ROOT / "train.py").is_file():
        raise RunError(f"A study runs train.py of a checkout, and {ROOT} is none: clone the repository first.")
    Job("study", stages(plan), plan.out / "logs", jobs=jobs, cwd=ROOT).run()


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analysis.study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/study"), help="directory of everything")
    parser.add_argument("--seeds", type=int, help="runs of each method; 5, as in the paper, or 2 with --quick")
    parser.add_argument("--quick", action="store_true", help=f"runs of {QUICK_STEPS:,} steps: minutes, not hours")
    parser.add_argument("--steps", type=int, help=f"length of each run; {PAPER_STEPS:,}, as in the paper")
    parser.add_argument("--data", default="digits", help="data set, such as digits_large or mnist")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="lenet5 if not given; may be repeated")
    parser.add_argument("--jobs", type=int, default=0, help="processes at a time; one a core if not given")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    arguments = parser.parse_args(words)
    for name, least in (("seeds", 1), ("steps", 40), ("jobs", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name}={value} must be at least {least}")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Runs the study that the command line describes.

    Args:
      words: its arguments; None takes those of the process.

    Returns:
      The exit status.
    """
    arguments = _arguments(sys.argv[1:] if words is None else words)
    plan = Plan(
        # The stages run in the checkout, wherever this was called from.
        arguments.out.resolve(),
        tuple(arguments.network or ("lenet5",)),
        arguments.data,
        arguments.seeds or (QUICK_SEEDS if arguments.quick else 5),
        arguments.steps or (QUICK_STEPS if arguments.quick else PAPER_STEPS),
    )
    if arguments.list:
        for stage in stages(plan):
            sys.stdout.write(f"python {shlex.join(stage.command)}\n")
        return 0
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(logging.INFO)
    signals.raise_keyboard_interrupt()
    try:
        study(plan, arguments.jobs)
    except RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        absl_logging.info("Stopped; the same command goes on from there.")
        return 128 + signal.SIGINT
    sys.stdout.write(f"The report is {plan.out / 'report' / 'index.html'}; the runs lie beside it.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
