"""Branches: what else is trained from the masks of a level, to say what a ticket's success comes from."""

from typing import NamedTuple

from sparse_lib.experiment.runtime.errors import RunError

# The chain itself, in tables.
TICKET = "ticket"


class Branch(NamedTuple):
    """Another training at a level.

    Attributes:
      label: in figures.
      weights: `start`, as the chain; `initial` or `step`, of the dense run; `previous`, the trained weights of the
        level before; `fresh`, a new initialisation.
      bindings: gin bindings on top of the level's; `{}` stands for the argument.
      argument: what follows the name and a colon, such as `step`; empty if nothing does.
      prunes_start: whether the initial weights of the dense run are pruned, instead of trained ones.
      trains: whether it trains; else it is evaluated before the first step.
    """

    label: str
    weights: str = "start"
    bindings: tuple[str, ...] = ()
    argument: str = ""
    prunes_start: bool = False
    trains: bool = True


BRANCHES = {
    "reinit": Branch("random reinitialisation", "fresh"),
    "shuffle": Branch("mask shuffled within layers", bindings=("network.shuffle_mask=True",)),
    "random": Branch("random mask and weights", "fresh", ("network.shuffle_mask=True",)),
    "magnitude": Branch("magnitude at initialisation", "initial", prunes_start=True),
    "rewind": Branch("rewound to step {}", "step", argument="step"),
    "signs_constant": Branch("signs kept, one magnitude", bindings=("network.weight_init_signs='constant'",)),
    "signs_random": Branch("random signs", bindings=("network.weight_init_signs='random'",)),
    "signs_flip": Branch(
        "{} of the signs flipped", bindings=("network.weight_init_signs='flip:{}'",), argument="share"
    ),
    "inverted": Branch("inverted mask", bindings=("network.invert_mask=True",)),
    "supermask": Branch("supermask, untrained", "initial", trains=False),
    "prune_restart": Branch("prune-restart", "previous"),
}


def find_branch(text: str) -> tuple[Branch, str]:
    """Finds a branch by its name on the command line.

    Args:
      text: such as `reinit` or `rewind:500`.

    Returns:
      The branch, and its argument.

    Raises:
      RunError: if there is none of that name, or its argument is missing or no number in range.
    """
    name, _, argument = text.partition(":")
    if name not in BRANCHES:
        known = ", ".join(n + (f":{b.argument.upper()}" if b.argument else "") for n, b in BRANCHES.items())
        raise RunError(f"There is no branch {name!r}; the branches are {known}.")
    branch = BRANCHES[name]
    if bool(argument) != bool(branch.argument):
        needs = (
            f"needs a {branch.argument}, as in {name}:{_example(branch)}" if branch.argument else "takes no argument"
        )
        raise RunError(f"The branch {name} {needs}.")
    is_step = branch.argument == "step" and argument.isdecimal()
    is_share = branch.argument == "share" and _is_share(argument)
    if argument and not (is_step or is_share):
        raise RunError(f"{text!r}: {argument!r} is no {branch.argument}; write one as in {name}:{_example(branch)}.")
    return branch, argument


def label_branch(text: str) -> str:
    """Returns the label of a branch in figures.

    Args:
      text: its name on the command line; `ticket` for the chain.
    """
    if text == TICKET:
        return "winning ticket"
    branch, argument = find_branch(text)
    return branch.label.format(f"{float(argument):.0%}" if branch.argument == "share" else argument)


def _example(branch: Branch) -> str:
    return "500" if branch.argument == "step" else "0.1"


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False
