"""Which bindings make a variant of a method."""

# Bindings that do not make a variant of a method: paths, logging and checkpoints.
_NAMES = {
    "data.cache_dir",
    "data.data_dir",
    "data.download",
    "iterative_pruning.fraction",
    "network.mask_init_path",
    "network.weight_init_path",
    "training.data_seed",
    "training.execution",
    "training.jit_compile",
    "training.keep_best",
    "training.keep_checkpoints",
    "training.log_freq",
    "training.save_freq",
    "training.save_steps",
    "training.save_update_pairs",
    "training.seed",
    "training.val_batch_size",
    # Runs are grouped by sparsity already.
    "masks.sparsity",
    "small_dense.sparsity",
    "pruning.final_sparsity",
    "training.oneshot_prune_fraction",
}
_GROUPS = ("hessian", "interpolate")


def makes_variant(name: str) -> bool:
    """Returns whether runs of one method that differ in a binding are different variants of it.

    Args:
      name: of the binding, such as `mask_updater.update_freq`.
    """
    return name not in _NAMES and not name.startswith(_GROUPS)
