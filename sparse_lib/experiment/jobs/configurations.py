"""What a job must know of the runs that it will start, read from their configurations before any of them starts."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import logging

from sparse_lib.experiment.command_line import pruned_run
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.storage.checkpoints import split_checkpoint

# The macros by which methods name a pruned run and its first checkpoint; they stand for one while it is unknown.
PRUNED = {"PRUNED_RUN": "<pruned>", "PRUNED_START": f"<pruned>{os.sep}ckpt-0"}
_PATHS = ("mask_init_path", "weight_init_path")
PRUNE = "prune.gin"
# Settings that the pruned run of a ticket does not share with it: how masks move, and from where a run starts.
_NOT_OF_PRUNING = (
    *("mask_updater.", "masks.", "oneshot.", "small_dense.", "metainit.", "unit_scaled_init.", "layer_scaled_init."),
    *("network.weight_init", "network.mask_init", "network.shuffle_mask"),
    *("training.oneshot_prune_fraction", "training.use_metainit"),
)


class Configuration(NamedTuple):
    """What a configuration says of a run.

    Attributes:
      total_steps: length of the run (step).
      has_validation: whether images are held out for validation.
      pruned: by setting of `network`, what follows the directory of a pruned run, such as `/ckpt-0`; empty if the run
        takes nothing of a run that is still to be made.
    """

    total_steps: int
    has_validation: bool
    pruned: Mapping[str, str]


def read(configs: Sequence[str], bindings: Sequence[str]) -> Configuration:
    """Reads and checks the configuration of a run.

    Args:
      configs: gin files, read in order.
      bindings: which win over files.

    Returns:
      What it says.

    Raises:
      SettingError: for a missing file, an unknown name, or a value that a setting cannot have.
    """
    with _mute():
        return _read(configs, bindings)


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Holds back warnings, such as of macros that nothing uses: a run gives its own."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        gin_files.forget()


def _read(configs: Sequence[str], bindings: Sequence[str]) -> Configuration:
    own_choice = any(binding.lstrip().startswith(("PRUNED_", "network.mask_init_path")) for binding in bindings)
    try:
        _parse(configs, bindings)
        pruned = {} if own_choice else _find_pruned(tuple(pruned_run.NAMED))
    except SettingError as error:
        # A method may name a pruned run by a macro that no network's file defines.
        pruned = {} if own_choice else _try_macros(configs, bindings)
        if not pruned:
            raise error from error.__cause__
    training, data = gin_names.training(), gin_names.data()
    for settings in (gin_names.masks, gin_names.oneshot, gin_names.pruning, gin_names.mask_updater):
        settings()
    gin_names.NETWORKS[gin_names.network().network_name]()
    gin_names.optimizer()
    gin_names.small_dense()
    return Configuration(training.total_steps, data.validation_size != 0, pruned)


def _parse(configs: Sequence[str], bindings: Sequence[str]) -> None:
    gin_files.forget()
    gin_files.parse(list(configs), list(bindings))


def _find_pruned(runs: Sequence[str]) -> dict[str, str]:
    """Returns, by setting of the network, what follows the directory of one of some runs."""
    found = {}
    for name in _PATHS:
        path = gin_files.read_bound("network", name)
        if isinstance(path, str) and (run := split_checkpoint(path)[0]) in runs:
            found[name] = path.removeprefix(run)
    return found


def _try_macros(configs: Sequence[str], bindings: Sequence[str]) -> dict[str, str]:
    """Returns what `_find_pruned` does after the macros of a pruned run are bound, those that are in use."""
    for names in (("PRUNED_RUN", "PRUNED_START"), ("PRUNED_RUN",)):
        try:
            _parse(configs, [*bindings, *(f"{name}={PRUNED[name]!r}" for name in names)])
        except SettingError:
            continue
        return _find_pruned(("<pruned>",))
    return {}


def name_pruning_files(configs: Sequence[str]) -> tuple[str, ...]:
    """Returns the gin files that make the pruned run of a ticket: the method's file makes way for prune.gin beside it.

    Args:
      configs: gin files of the ticket.

    Raises:
      SettingError: if there is no such file.
    """
    for place in reversed(range(len(configs))):
        path = pathlib.Path(configs[place])
        if (path.parent / PRUNE).is_file():
            return (*configs[:place], str(path.parent / PRUNE), *configs[place + 1 :])
    raise SettingError(
        f"{' and '.join(configs)} takes the masks of a pruned run, and no {PRUNE} lies beside it; name a run by "
        "--gin_bindings=\"PRUNED_RUN='DIR'\"."
    )


def select_pruning_bindings(configs: Sequence[str], bindings: Sequence[str]) -> tuple[str, ...]:
    """Returns the bindings of a ticket that change its pruned run; those of masks, updates and starts do not.

    Args:
      configs: gin files of the pruned run.
      bindings: of the ticket.
    """
    kept = [binding for binding in bindings if not binding.lstrip().startswith(_NOT_OF_PRUNING)]
    with _mute():
        for binding in [b for b in kept if "." not in b.partition("=")[0]]:
            if _decide(configs, [binding]) is None:
                kept.remove(binding)
        everything = _decide(configs, kept)
        return tuple(b for b in kept if _decide(configs, [other for other in kept if other != b]) != everything)


def _decide(configs: Sequence[str], bindings: Sequence[str]) -> str | None:
    """Returns the settings that decide the outcome of a pruned run; None if there are no such settings."""
    try:
        _parse(configs, bindings)
        network = gin_names.network()
        decisive = (gin_names.training, gin_names.pruning, gin_names.optimizer, gin_names.data)
        return repr([network, gin_names.NETWORKS[network.network_name](), *(settings() for settings in decisive)])
    except SettingError:
        return None
