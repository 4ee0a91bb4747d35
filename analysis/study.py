"""The MNIST protocol of the gradient-flow paper from end to end: training, spectra, paths, report.

  python -m analysis.study --out=runs/study --seeds=2 --quick

Every stage is a process of train.py, hessian.py, interpolate.py or the report, whose command can be typed by hand. A
finished stage is not repeated, and an interrupted one resumes.
"""

import argparse
import functools
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import NamedTuple

from sparse_lib.experiment.jobs import places, protocol
from sparse_lib.experiment.jobs.protocol import ROOT
from sparse_lib.experiment.jobs.stages import Job, Stage
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import files

# Length of the published runs, on whose scale the published pruning schedule is given (step).
PAPER_STEPS = 11_719
PRUNING = {"begin_step": 3000, "end_step": 7000, "frequency": 100}
QUICK_STEPS, QUICK_SEEDS = 2000, 2
_PLUS = ("network.weight_init_method='unit_scaled'",)
_LIU = ("network.weight_init_method='layer_scaled'",)
# Rough seconds of one core, as weights of the stages in the estimate of the remaining time.
_STEP_SECONDS = {"lenet5": 1 / 110, "mlp": 1 / 500}
_SPECTRUM_SECONDS = {"lenet5": 15.0, "mlp": 40.0}
_START_SECONDS, _PATH_SECONDS, _REPORT_SECONDS = 8.0, 20.0, 60.0


class Network(NamedTuple):
    """A network of the study.

    Attributes:
      configs: folder of its gin files.
      update_freq: published interval of mask updates (step).
    """

    configs: str
    update_freq: int


NETWORKS = {"lenet5": Network("configs", 100), "mlp": Network("mlp_configs", 500)}


class Method(NamedTuple):
    """A method that is trained with every seed.

    Attributes:
      config: name of the gin file.
      bindings: gin bindings on top of the file.
    """

    config: str
    bindings: tuple[str, ...] = ()


# Methods that take the masks of the pruned network, as in the paper.
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
# Between the seeds of pruned networks, so that no run has the start and the data order of one whose masks it takes.
_PRUNED_APART = 1000
# Methods that do not take those masks, also trained with every seed.
APART = (_PRUNED, "dense", "small_dense")
# Methods whose Hessian spectra are computed around mask updates, for the first seed.
SPECTRA = ("set_plus", "rigl_plus", "rigl_inverted_plus")
# Methods and the end of training, start or end, from which the line to the pruned solution is evaluated: those of the
# paper, and the initialisation that trains where the dense one does not.
PATHS = (
    ("lottery", "start"),
    ("lottery", "end"),
    ("scratch", "start"),
    ("scratch", "end"),
    ("scratch_plus", "end"),
)


class Plan(NamedTuple):
    """The size of a study.

    Attributes:
      out: directory of all runs and of the report.
      networks: names in `NETWORKS`.
      data: gin name of the data set.
      seeds: runs of each method (count).
      steps: length of each run (step).
      pruned_networks: pruned networks whose masks the methods take, each with every seed (count).
    """

    out: pathlib.Path
    networks: tuple[str, ...]
    data: str
    seeds: int
    steps: int
    pruned_networks: int = 1


def make_stages(plan: Plan) -> list[Stage]:
    """Returns all stages of a study, each after those that it waits for.

    Args:
      plan: size of the study.

    Returns:
      Training, spectra and paths of every network, then the report.
    """
    stages: list[Stage] = []
    for network in plan.networks:
        pruned = _run_name(network, _PRUNED, 0)
        stages.append(_make_training(plan, network, _PRUNED, 0))
        for seed in range(1, plan.seeds + 1):
            stages += [_make_training(plan, network, method, seed, masks_of=pruned) for method in METHODS]
            stages += [_make_training(plan, network, method, seed) for method in APART]
        for place in range(1, plan.pruned_networks):
            stages += _make_trainings_from(plan, network, place * _PRUNED_APART)
        stages += [_make_spectra(plan, network, method) for method in SPECTRA]
        for seed in range(1, plan.seeds + 1):
            stages += [_make_path(plan, network, method, seed, end) for method, end in PATHS]
    report = plan.out / "report"
    command = ("-m", "analysis.report", f"--runs={plan.out}", f"--out={report}")
    names = tuple(stage.name for stage in stages)
    return [*stages, Stage("report", command, (report / "index.html").exists, names, _REPORT_SECONDS)]


def _run_name(network: str, method: str, seed: int) -> str:
    return f"{network}/{method}_{seed}"


def _make_trainings_from(plan: Plan, network: str, pruned_seed: int) -> list[Stage]:
    """Returns a further pruned network, and every method and seed from its masks."""
    pruned = _run_name(network, _PRUNED, pruned_seed)
    return [
        _make_training(plan, network, _PRUNED, pruned_seed),
        *(
            _make_training(plan, network, method, seed, masks_of=pruned, suffix=f"_from_{pruned_seed}")
            for seed in range(1, plan.seeds + 1)
            for method in METHODS
        ),
    ]


def _make_training(
    plan: Plan, network: str, method: str, seed: int, masks_of: str | None = None, suffix: str = ""
) -> Stage:
    config, bindings = METHODS.get(method, Method(method))
    shared = [
        f"training.total_steps={plan.steps}",
        f"training.log_freq={_scale_steps(plan, 200)}",
        f"data.name='{plan.data}'",
        f"UPDATE_FREQ={_update_freq(plan, network)}",
    ]
    if method == _PRUNED:
        shared += [f"pruning.{name}={_scale_steps(plan, value)}" for name, value in PRUNING.items()]
    save_pairs = ("training.save_update_pairs=True",) if method in SPECTRA and seed == 1 and not suffix else ()
    return protocol.make_training(
        plan.out,
        f"{_run_name(network, method, seed)}{suffix}",
        f"{NETWORKS[network].configs}/{config}.gin",
        (*save_pairs, *bindings),
        shared=shared,
        masks_of=masks_of,
        seed=seed,
        steps=plan.steps,
        step_work=_STEP_SECONDS[network],
        start_work=_START_SECONDS,
    )


def _scale_steps(plan: Plan, steps: int) -> int:
    """Scales a step of the published schedule to the length of the plan's runs."""
    return max(1, round(steps * plan.steps / PAPER_STEPS))


def _update_freq(plan: Plan, network: str) -> int:
    """Returns the interval of mask updates: the published one, or shorter for 20 updates per run (step)."""
    return min(NETWORKS[network].update_freq, max(1, plan.steps // 20))


def _make_spectra(plan: Plan, network: str, method: str) -> Stage:
    run, every = _run_name(network, method, 1), _update_freq(plan, network)
    # The checkpoints before and after four updates, the first among them, and the last checkpoint.
    updates = [every * n for n in (1, 2, 5, 10)]
    numbers = [number for step in updates for number in (1 - step, -step)] + [plan.steps]
    return Stage(
        f"{network}/hessian_{method}",
        protocol.make_command(
            "hessian.py",
            plan.out / run,
            f"{NETWORKS[network].configs}/hessian.gin",
            (f"hessian.ckpt_ids={numbers}", "hessian.batch_size=10000"),
        ),
        (plan.out / run / files.HESSIAN / f"ckpt-{plan.steps}.json").exists,
        (run,),
        len(numbers) * _SPECTRUM_SECONDS[network],
    )


def _make_path(plan: Plan, network: str, method: str, seed: int, end: str) -> Stage:
    run, pruned = _run_name(network, method, seed), _run_name(network, _PRUNED, 0)
    start = plan.out / run / "ckpt-0" if end == "start" else plan.out / run
    out = plan.out / network / "paths" / f"{method}_{end}_{seed}"
    return Stage(
        f"{network}/path_{method}_{end}_{seed}",
        protocol.make_command(
            "interpolate.py",
            out,
            f"{NETWORKS[network].configs}/interpolate.gin",
            flags=(f"--ckpt_start={start}", f"--ckpt_end={plan.out / pruned}"),
        ),
        functools.partial(protocol.is_interpolated, out / files.INTERPOLATION_SUMMARY),
        (run, pruned),
        _PATH_SECONDS,
    )


def run_study(plan: Plan, jobs: int = 0, place: places.Place = places.LOCAL) -> None:
    """Runs the unfinished stages of a study.

    Args:
      plan: size of the study.
      jobs: parallel processes; 0 means one per core (count).
      place: where the stages run.

    Raises:
      RunError: if a stage fails, or the directory holds a study of other settings.
    """
    protocol.require_checkout("A study")
    Job("study", make_stages(plan), plan.out / "logs", jobs=jobs, cwd=ROOT, place=place).run()


def _parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analysis.study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/study"), help="directory of the study")
    parser.add_argument("--seeds", type=int, help="runs of each method; 5, as in the paper, or 2 with --quick")
    parser.add_argument(
        "--pruned_networks", type=int, default=1, help="pruned networks, crossed with the seeds; intervals count both"
    )
    parser.add_argument("--quick", action="store_true", help=f"runs of {QUICK_STEPS:,} steps: minutes, not hours")
    parser.add_argument("--steps", type=int, help=f"length of each run; {PAPER_STEPS:,}, as in the paper")
    parser.add_argument("--data", default="digits", help="data set, such as digits_large or mnist")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="lenet5 if not given; may be repeated")
    parser.add_argument("--jobs", type=int, default=0, help="parallel processes; one per core if not given")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    places.add_arguments(parser)
    arguments = parser.parse_args(words)
    for name, least in (("seeds", 1), ("pruned_networks", 1), ("steps", 40), ("jobs", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name}={value} must be at least {least}")
    try:
        arguments.place = places.make_place(vars(arguments))
    except SettingError as error:
        parser.error(str(error))
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Runs a study from the command line.

    Args:
      words: arguments; None takes those of the process.

    Returns:
      The exit status.
    """
    arguments = _parse_arguments(sys.argv[1:] if words is None else words)
    plan = Plan(
        # The stages run in the checkout, whatever the current directory is.
        arguments.out.resolve(),
        tuple(arguments.network or ("lenet5",)),
        arguments.data,
        arguments.seeds or (QUICK_SEEDS if arguments.quick else 5),
        arguments.steps or (QUICK_STEPS if arguments.quick else PAPER_STEPS),
        arguments.pruned_networks,
    )
    if arguments.list:
        for stage in make_stages(plan):
            sys.stdout.write(f"python {shlex.join(stage.command)}\n")
        return 0
    protocol.start_logging()
    try:
        status = protocol.run_until_interrupted(lambda: run_study(plan, arguments.jobs, arguments.place))
    except RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if status == 0:
        sys.stdout.write(f"The report is {plan.out / 'report' / 'index.html'}; the runs are in {plan.out}.\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
