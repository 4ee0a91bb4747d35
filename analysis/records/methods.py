"""What a configuration trains: the method's name, as the papers have it, and what its runs are compared within."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# Name of a method without its suffixes -> what tables and figures call it, in the order in which they list it.
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
    "static": "Static",
    "set": "SET",
    "rigl": "RigL",
    "rigl_inverted": "RigL inverted",
    "rigl_s": "RigL-SNIP",
    "rigl_grasp": "RigL-GraSP",
    "riglauto": "RigL auto",
    "srigl": "SRigL",
    "snfs": "SNFS",
    "mest": "MEST",
    "granet": "GraNet",
    "topkast": "Top-KAST",
    "dnw": "DNW",
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "magnitude": "Magnitude at init",
    "random": "Random at init",
}
# Suffixes of a method's name, in this order -> what they add to its label.
SUFFIXES = {
    "plus": "+",
    "liu": " (Liu init)",
    "metainit": " (MetaInit)",
    "ticket": " (ticket weights)",
    "erk": " (ERK)",
    "er": " (ER)",
    "uniform": " (uniform)",
    "str": " (STR)",
    "custom": " (custom)",
    "snip": " (SNIP masks)",
    "grasp": " (GraSP masks)",
    "synflow": " (SynFlow masks)",
    "magnitude": " (magnitude masks)",
    "random": " (random masks)",
}
# Suffixes that tell of weights; the others tell where the masks come from.
OF_WEIGHTS = ("plus", "liu", "metainit", "ticket")
# Masks that stay, masks that only shrink, masks that move.
DENSE = ("dense", "small_dense")
PRUNING = ("prune", "prune_global", "prune_once")
TICKETS = ("lottery", "lottery_rewind", "prune_restart")
STATIC = (*TICKETS, "scratch", "scratch_shuffled", "static", "snip", "grasp", "synflow", "magnitude", "random")

_ONESHOT_OF_UPDATER = {"rigl_s": "snip", "rigl_grasp": "grasp"}
_INITS = {"unit_scaled": "plus", "layer_scaled": "liu"}
WIDTHS = {"lenet5": (6, 16, 120, 84), "mlp": (300, 100)}
_NETWORKS = {
    "lenet5": "LeNet5",
    "mlp": "MLP",
    "vgg16": "VGG16",
    "resnet": "ResNet",
    "wide_resnet": "Wide ResNet",
    "mobilenet": "MobileNet",
    "vit": "ViT",
    "gru": "GRU",
}
_CHECKPOINT = re.compile(r"[/\\](?:ckpt-(-?\d+)|cp-0*(\d+)\.ckpt)(?:\.index)?$")


class Identity(NamedTuple):
    """What a run is.

    Attributes:
      method: name with suffixes, parts joined by dots, such as `rigl.plus.erk`.
      seed: of the run's data order, which is that of the run unless it is set apart.
      setting: network and data; only runs of one setting are compared.
      network: gin name of the network.
      data: name of the data set.
      sparsity: that the configuration aims at, or that of the network whose size a small dense one has (fraction); NaN
        where it is that of another run's masks.
      total_steps: length of the run (step).
      mask_source: path of the run or checkpoint whose masks it takes; empty if none.
    """

    method: str
    seed: int
    setting: str
    network: str
    data: str
    sparsity: float
    total_steps: int
    mask_source: str


def identify(values: Mapping[str, Any]) -> Identity:
    """Says what a configuration trains.

    Args:
      values: value by name, from `operative.parse`.

    Returns:
      The identity of the run.
    """
    base = _base(values)
    network = str(values.get("network.network_name", "lenet5"))
    data = str(values.get("data.name", "digits"))
    data_seed = values.get("training.data_seed")
    normed = " with batch norm" if values.get(f"{network}.use_batch_norm") else ""
    return Identity(
        method=".".join([base, *_suffixes(values, base)]),
        seed=int(values.get("training.seed") or 0) if data_seed is None else int(data_seed),
        setting=f"{_NETWORKS.get(network, network)}{normed} on {data}",
        network=network,
        data=data,
        sparsity=_sparsity(values, base),
        total_steps=int(values.get("training.total_steps") or 0),
        mask_source=str(values.get("network.mask_init_path") or ""),
    )


def label(method: str) -> str:
    """What tables and figures call a method.

    Args:
      method: as in `Identity`.

    Returns:
      Its label, such as `RigL+ (ERK)`.
    """
    base, *suffixes = method.split(".")
    return BASES.get(base, base) + "".join(
        SUFFIXES.get(suffix, f" ({suffix.replace('_', ' ')})") for suffix in suffixes
    )


def order(method: str) -> tuple[Any, ...]:
    """A key that sorts methods as the tables list them."""
    base, *suffixes = method.split(".")
    bases, every = list(BASES), list(SUFFIXES)
    places = [every.index(suffix) if suffix in every else len(every) for suffix in suffixes]
    return (bases.index(base) if base in bases else len(bases), base, len(places), places)


def base_of(method: str) -> str:
    """The name of a method without its suffixes."""
    return method.partition(".")[0]


def split_checkpoint(path: str) -> tuple[str, int | None]:
    """Takes a path that means a checkpoint apart.

    Args:
      path: of a run directory or of a checkpoint in it.

    Returns:
      The run directory, and the step; None means the last one.
    """
    match = _CHECKPOINT.search(path)
    if not match:
        return path, None
    return path[: match.start()], int(match[1] or match[2])


def _updater(values: Mapping[str, Any]) -> str:
    is_off = values.get("mask_updater.last_update_step") == 0
    return "" if is_off else str(values.get("mask_updater.update_alg") or "")


def _oneshot(values: Mapping[str, Any]) -> str:
    if not values.get("training.oneshot_prune_fraction"):
        return ""
    implied = _ONESHOT_OF_UPDATER.get(str(values.get("mask_updater.update_alg")), "snip")
    return str(values.get("oneshot.method") or implied)


def _is_pruned(values: Mapping[str, Any]) -> bool:
    return values.get("pruning.mode", "off") != "off" and bool(values.get("pruning.final_sparsity", 0.8))


def _base(values: Mapping[str, Any]) -> str:
    updater = _updater(values)
    if updater and updater != "static":
        return updater
    if _is_pruned(values):
        once = values.get("pruning.mode") == "constant"
        return "prune_once" if once else "prune_global" if values.get("pruning.scope") == "global" else "prune"
    if values.get("network.mask_init_path"):
        return _from_masks(values)
    if oneshot := _oneshot(values):
        return oneshot
    if values.get("masks.sparsity"):
        return "static"
    return "small_dense" if _is_small(values) else "dense"


def _is_small(values: Mapping[str, Any]) -> bool:
    """Whether a dense network is narrower than the paper's."""
    network = str(values.get("network.network_name", "lenet5"))
    full = WIDTHS.get(network, ())
    widths = values.get(f"{network}.hidden_sizes", full)
    is_narrow = len(widths) == len(full) and any(a < b for a, b in zip(widths, full, strict=True))
    return is_narrow or bool(values.get("small_dense.sparsity"))


def _from_masks(values: Mapping[str, Any]) -> str:
    """The name of a method that trains under the masks of another run, which stay."""
    masks, weights = values["network.mask_init_path"], values.get("network.weight_init_path")
    if not weights:
        return "scratch_shuffled" if values.get("network.shuffle_mask") else "scratch"
    (mask_run, mask_step), (weight_run, weight_step) = map(split_checkpoint, (str(masks), str(weights)))
    if weight_step == 0:
        return "lottery"
    same_run = pathlib.PurePath(mask_run) == pathlib.PurePath(weight_run)
    return "prune_restart" if same_run and mask_step == weight_step else "lottery_rewind"


def _suffixes(values: Mapping[str, Any], base: str) -> list[str]:
    suffixes: list[str] = []
    if not values.get("network.weight_init_path"):
        suffixes += filter(None, [_INITS.get(str(values.get("network.weight_init_method")))])
    if values.get("training.use_metainit"):
        suffixes.append("metainit")
    is_moving = base not in (*DENSE, *PRUNING, *STATIC)
    if values.get("network.mask_init_path"):
        return [*suffixes, "ticket"] if is_moving and values.get("network.weight_init_path") else suffixes
    if _oneshot(values):
        return [*suffixes, _oneshot(values)] if is_moving else suffixes
    if values.get("masks.sparsity") and (is_moving or base == "static"):
        return [*suffixes, _distribution(values, base)]
    return suffixes


def _distribution(values: Mapping[str, Any], base: str) -> str:
    """Where masks come from at random: their structure if they have one, else how they are shared out over layers."""
    structure = values.get("masks.structure")
    # SRigL has no other.
    if structure and base != "srigl":
        return str(structure)
    return "custom" if values.get("masks.custom") else str(values.get("masks.distribution", "erk"))


def _sparsity(values: Mapping[str, Any], base: str) -> float:
    if _is_pruned(values) and base in (*PRUNING, "granet"):
        return float(values.get("pruning.final_sparsity", 0.8))
    if values.get("network.mask_init_path"):
        return float("nan")
    names = ("training.oneshot_prune_fraction", "masks.sparsity", "small_dense.sparsity")
    return float(next((values[name] for name in names if values.get(name)), 0.0))
