"""The runs of a study: command lines of train.py, one per level, branch and seed."""

import pathlib
from typing import NamedTuple

from analysis.tickets.branches import find_branch
from analysis.tickets.plan import LEARNING_RATE, Plan
from sparse_lib.experiment.jobs import protocol

# Log steps of a run, on which the step of the lowest validation loss is found (count).
LOGS = 50
_METHODS = pathlib.Path("configs", "methods")


class Run(NamedTuple):
    """One run.

    Attributes:
      seed: of its chain.
      level: prunings before it (count).
      branch: name on the command line; empty for the chain.
      command: arguments of the Python interpreter.
      steps: length (step).
      directory: of the run.
    """

    seed: int
    level: int
    branch: str
    command: tuple[str, ...]
    steps: int
    directory: pathlib.Path


def make_runs(plan: Plan) -> list[Run]:
    """Makes all runs, each after those whose masks or weights it takes.

    Args:
      plan: size of the study.

    Returns:
      The levels of all seeds, then the branches.
    """
    levels = [_make_level(plan, seed, level) for level in range(plan.levels + 1) for seed in plan.seed_numbers]
    at = plan.branch_levels or range(1, plan.levels + 1)
    branches = [
        _make_branch(plan, seed, level, name) for level in at for name in plan.branches for seed in plan.seed_numbers
    ]
    return [*levels, *branches]


def _make_level(plan: Plan, seed: int, level: int) -> Run:
    if level == 0:
        steps = list_rewinding_steps(plan)
        kept = (f"training.save_steps={list(steps)}",) if steps else ()
        return _make_run(plan, seed, level, "", "dense", kept)
    return _make_run(plan, seed, level, "", "imp", _sources(plan, seed, level, _find_start(plan, seed, level)))


def _make_branch(plan: Plan, seed: int, level: int, name: str) -> Run:
    branch, argument = find_branch(name)
    bindings = [binding.format(argument) for binding in branch.bindings]
    if not branch.trains:
        bindings.append("training.total_steps=1")
    if branch.weights == "fresh":
        sources = _sources(plan, seed, level, None)
        return _make_run(plan, seed, level, name, "imp_reinit", (*sources, *bindings))
    start = _find_start(plan, seed, level, branch.weights, argument)
    if branch.prunes_start:
        bindings.append(f"iterative_pruning.rounds={level}")
        sources = _sources(plan, seed, level, start, masks=start)
    else:
        sources = _sources(plan, seed, level, start)
    steps = plan.steps if branch.trains else 1
    return _make_run(plan, seed, level, name, "imp", (*sources, *bindings), steps)


def _find_start(plan: Plan, seed: int, level: int, weights: str = "start", argument: str = "") -> pathlib.Path:
    """Returns the checkpoint that a level, or a branch of it, starts from."""
    step = {"initial": "0", "step": argument, "previous": LEARNING_RATE}.get(weights, str(plan.rewind))
    if step == LEARNING_RATE:
        return plan.run_directory(seed, level - 1)
    return plan.run_directory(seed, 0) / f"ckpt-{step}"


def list_rewinding_steps(plan: Plan) -> tuple[int, ...]:
    """Lists the steps of the dense run, beside the first, whose weights some run starts from.

    Args:
      plan: size of the study.

    Returns:
      The steps, ascending.

    Raises:
      RunError: if there is no branch of a name.
    """
    wanted = {plan.rewind} if isinstance(plan.rewind, int) else set()
    for name in plan.branches:
        branch, argument = find_branch(name)
        if branch.weights == "step":
            wanted.add(int(argument))
    return tuple(sorted(step for step in wanted if step))


def _sources(
    plan: Plan, seed: int, level: int, start: pathlib.Path | None, masks: pathlib.Path | None = None
) -> tuple[str, ...]:
    """Returns the bindings of the masks and weights of a level."""
    pruned = plan.run_directory(seed, level - 1) if masks is None else masks
    return (
        f"PRUNED_RUN='{pruned}'",
        *(() if start is None else (f"PRUNED_START='{start}'",)),
        f"iterative_pruning.fraction={plan.fraction}",
        f"iterative_pruning.scope='{plan.scope}'",
        f"iterative_pruning.output_rate={plan.output_rate}",
    )


def _make_run(
    plan: Plan,
    seed: int,
    level: int,
    branch: str,
    method: str,
    bindings: tuple[str, ...],
    steps: int | None = None,
) -> Run:
    directory = plan.run_directory(seed, level, branch)
    shared = [
        f"training.total_steps={plan.steps}",
        f"training.log_freq={max(1, plan.steps // LOGS)}",
        # The first and the last are all that a level needs of the one before.
        "training.keep_checkpoints=1",
        *((f"data.name='{plan.data}'",) if plan.data else ()),
        *plan.bindings,
    ]
    network, *rest = plan.gin_files
    *before, config = [network, _METHODS / f"{method}.gin", *rest]
    flags = (f"--seed={seed}", *(f"--gin_config={path}" for path in before))
    command = protocol.make_command(protocol.TRAIN, directory, str(config), (*shared, *bindings), flags)
    return Run(seed, level, branch, command, plan.steps if steps is None else steps, directory)
