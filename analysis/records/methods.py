"""Methods of runs: names, labels as in the papers, and the order of the tables."""

import contextlib
import pathlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from sparse_lib import updaters
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.config import description
from sparse_lib.experiment.config.iterative_pruning import IterativePruningSettings
from sparse_lib.experiment.config.mask_updates import PruningSettings, UpdaterSettings
from sparse_lib.experiment.config.masks import MaskSettings, OneShotSettings
from sparse_lib.experiment.config.network import NetworkSettings
from sparse_lib.experiment.config.small_dense import SmallDenseSettings
from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.networks import NETWORKS
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.description import Description, read_description
from sparse_lib.experiment.training.outcome import AT_CHANCE, DIVERGED, ON_PLATEAU

# Methods that stay dense, masks that only shrink, masks of another run, masks that stay.
DENSE, PRUNING, TICKETS, STATIC = description.DENSE, description.PRUNING, description.TICKETS, description.STATIC

# How runs that have not trained ended, in words.
FAILURES: dict[str, str] = {AT_CHANCE: "at chance", ON_PLATEAU: "on the plateau", DIVERGED: "diverged"}

# Labels of methods by name without suffixes, in the order of the tables.
BASES = {
    "dense": "Dense",
    "small_dense": "Small dense",
    "prune": "Pruning",
    "prune_global": "Global pruning",
    "prune_once": "One-time pruning",
    "lottery": "Lottery",
    "lottery_rewind": "Rewound lottery",
    "prune_restart": "Prune-restart",
    "scratch": "Scratch",
    "scratch_shuffled": "Shuffled scratch",
    **{name: updater.label for name, updater in updaters.REGISTRY.items()},
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "wanda": "Wanda",
    "magnitude": "Magnitude at init",
    "random": "Random at init",
}
# Additions to a label by suffix of the method's name, in the order of suffixes.
SUFFIXES = {
    "plus": "+",
    "liu": " (Liu init)",
    "metainit": " (MetaInit)",
    "constant_signs": " (signs, one magnitude)",
    "random_signs": " (random signs)",
    "flip_signs": " (signs flipped)",
    "inverted": " (inverted masks)",
    "shuffled": " (shuffled masks)",
    "ticket": " (ticket weights)",
    "erk": " (ERK)",
    "er": " (ER)",
    "uniform": " (uniform)",
    "str": " (STR)",
    "custom": " (custom)",
    "snip": " (SNIP masks)",
    "grasp": " (GraSP masks)",
    "synflow": " (SynFlow masks)",
    "wanda": " (Wanda masks)",
    "magnitude": " (magnitude masks)",
    "random": " (random masks)",
}
# Suffixes for the origin of the weights; the others are for that of the masks.
OF_WEIGHTS = ("plus", "liu", "metainit", "ticket", "constant_signs", "random_signs", "flip_signs")


def identify(values: Mapping[str, Any], directory: pathlib.Path | None = None) -> Description:
    """Describes a run.

    Args:
      values: value by name of its operative configuration, from `gin_text.parse`.
      directory: of the run; None has no run.json.

    Returns:
      The content of its run.json; without one, as in runs of earlier versions, a guess from the configuration.
    """
    if directory is not None:
        with contextlib.suppress(RunError):
            return read_description(directory / files.RUN)
    try:
        return _guess(values)
    except (RunError, InputError, KeyError, TypeError):
        # The configuration has been edited, or belongs to another version.
        return _guess({})._replace(method="unknown", setting="unknown")


def _guess(values: Mapping[str, Any]) -> Description:
    network = _settings(NetworkSettings, values)
    settings = SimpleNamespace(
        network=network,
        sizes=_settings(NETWORKS[network.network_name], values),
        training=_settings(TrainingSettings, values),
        masks=_settings(MaskSettings, values),
        oneshot=_settings(OneShotSettings, values),
        iterative_pruning=_settings(IterativePruningSettings, values),
        pruning=_settings(PruningSettings, values),
        mask_updater=_settings(UpdaterSettings, values),
        small_dense=_settings(SmallDenseSettings, values),
    )
    return description.describe(settings, str(values.get("data.name", "digits")))


def _settings(kind: Any, values: Mapping[str, Any]) -> Any:
    names = {name: f"{kind.config_name}.{name}" for name in kind.__dataclass_fields__}
    return kind(**{name: values[key] for name, key in names.items() if key in values})


def label(method: str, base_label: str = "") -> str:
    """Labels a method for tables and figures.

    Args:
      method: as in `Description`.
      base_label: of an updater from outside the suite, without suffixes.

    Returns:
      The label, such as `RigL+ (ERK)`.
    """
    base, *suffixes = method.split(".")
    return BASES.get(base, base_label or base) + "".join(
        SUFFIXES.get(suffix, f" ({suffix.replace('_', ' ')})") for suffix in suffixes
    )


def order(method: str) -> tuple[Any, ...]:
    """Returns a key that sorts methods in the order of the tables."""
    base, *suffixes = method.split(".")
    bases, every = list(BASES), list(SUFFIXES)
    places = [every.index(suffix) if suffix in every else len(every) for suffix in suffixes]
    return (bases.index(base) if base in bases else len(bases), base, len(places), places)


def base_of(method: str) -> str:
    """Returns the name of a method without its suffixes."""
    return method.partition(".")[0]
