"""What a run trains: its method, its setting and the sparsity that it aims at, for its run.json."""

import pathlib
from typing import Any

from sparse_lib import oneshot, updaters
from sparse_lib.experiment.storage.checkpoints import split_checkpoint
from sparse_lib.experiment.storage.description import Description

# Masks that stay, masks that only shrink; the others move.
DENSE = ("dense", "small_dense")
PRUNING = ("prune", "prune_global", "prune_once")
TICKETS = ("lottery", "lottery_rewind", "prune_restart")
STATIC = (*TICKETS, "scratch", "scratch_shuffled", "static", "snip", "grasp", "synflow", "wanda", "magnitude", "random")

_INITS = {"unit_scaled": "plus", "layer_scaled": "liu"}


def describe(experiment: Any, data: str) -> Description:
    """Describes a run from its settings.

    Args:
      experiment: has the settings as attributes: training, network, sizes, masks, oneshot, iterative_pruning, pruning,
        mask_updater and small_dense.
      data: name of the data set.

    Returns:
      The description.
    """
    base, training = _name_method(experiment), experiment.training
    network = experiment.network.network_name
    normed = " with batch norm" if getattr(experiment.sizes, "use_batch_norm", False) else ""
    return Description(
        method=".".join([base, *_suffixes(experiment, base)]),
        label=updaters.REGISTRY[base].label if base in updaters.REGISTRY else "",
        setting=f"{experiment.sizes.label}{normed} on {data}",
        network=network,
        data=data,
        target_sparsity=_target_sparsity(experiment, base),
        mask_source=experiment.network.mask_init_path or "",
        seed=training.seed if training.data_seed is None else training.data_seed,
        total_steps=training.total_steps,
    )


def _name_method(experiment: Any) -> str:
    mask_updater, pruning = experiment.mask_updater, experiment.pruning
    if not mask_updater.is_off and mask_updater.method != "static":
        return str(mask_updater.method)
    if _prunes(pruning):
        once = pruning.mode == "constant"
        return "prune_once" if once else "prune_global" if pruning.scope == "global" else "prune"
    if experiment.network.mask_init_path:
        return _name_of_ticket(experiment.network, experiment.iterative_pruning)
    if score := _oneshot_score(experiment):
        return score
    if experiment.masks.sparsity:
        return "static"
    return "small_dense" if _is_narrow(experiment) else "dense"


def _prunes(pruning: Any) -> bool:
    return pruning.mode != "off" and bool(pruning.final_sparsity)


def _name_of_ticket(network: Any, iterative_pruning: Any) -> str:
    """Names a method that trains under the masks of another run, which stay."""
    mask_run, mask_step = split_checkpoint(network.mask_init_path)
    if mask_step == 0 and iterative_pruning.fraction:
        return "magnitude"
    if not network.weight_init_path:
        return "scratch_shuffled" if network.shuffle_mask else "scratch"
    weight_run, weight_step = split_checkpoint(network.weight_init_path)
    if weight_step == 0:
        return "lottery"
    same_run = pathlib.PurePath(mask_run) == pathlib.PurePath(weight_run)
    return "prune_restart" if same_run and mask_step == weight_step else "lottery_rewind"


def _oneshot_score(experiment: Any) -> str:
    if not experiment.training.oneshot_prune_fraction:
        return ""
    pruning = experiment.oneshot.build(experiment.training.oneshot_prune_fraction, experiment.mask_updater.method)
    return next(name for name, kind in oneshot.METHODS.items() if type(pruning) is kind)


def _is_narrow(experiment: Any) -> bool:
    """Whether a dense network is narrower than the paper's, whose widths are the defaults."""
    widths = getattr(experiment.sizes, "hidden_sizes", ())
    full = getattr(type(experiment.sizes)(), "hidden_sizes", ()) if widths else ()
    is_narrow = len(widths) == len(full) and any(a < b for a, b in zip(widths, full, strict=True))
    return is_narrow or bool(experiment.small_dense.sparsity)


def _suffixes(experiment: Any, base: str) -> list[str]:
    network, suffixes = experiment.network, []
    if not network.weight_init_path and network.weight_init_method:
        suffixes.append(_INITS[network.weight_init_method])
    if experiment.training.use_metainit:
        suffixes.append("metainit")
    is_moving = base not in (*DENSE, *PRUNING, *STATIC)
    if network.weight_init_signs:
        suffixes.append(f"{network.weight_init_signs.partition(':')[0]}_signs")
    if network.mask_init_path:
        if network.invert_mask:
            suffixes.append("inverted")
        if network.shuffle_mask and base in TICKETS:
            suffixes.append("shuffled")
        return [*suffixes, "ticket"] if is_moving and network.weight_init_path else suffixes
    if score := _oneshot_score(experiment):
        return [*suffixes, score] if is_moving else suffixes
    if experiment.masks.sparsity and (is_moving or base == "static"):
        return [*suffixes, _distribution(experiment.masks, base)]
    return suffixes


def _distribution(masks: Any, base: str) -> str:
    """Names random masks by their structure if they have one, else by their distribution over layers."""
    # SRigL has no other structure.
    if masks.structure and base != "srigl":
        return str(masks.structure)
    return "custom" if masks.custom else str(masks.distribution)


def _target_sparsity(experiment: Any, base: str) -> float:
    if _prunes(experiment.pruning):
        return float(experiment.pruning.final_sparsity)
    if experiment.network.mask_init_path:
        return float("nan")
    choices = (experiment.training.oneshot_prune_fraction, experiment.masks.sparsity, experiment.small_dense.sparsity)
    return float(next(filter(None, choices), 0.0))
