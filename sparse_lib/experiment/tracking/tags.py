"""Names of measurements in groups, as dashboards show them."""

_SPLITS = ("train", "validation", "test")
_GROUPS = {
    "gradient_flow": (
        "gradient_norm",
        "gradient_norm_off_mask",
        "effective_gradient_flow",
        "effective_gradient_flow_l1",
        "predicted_loss_decrease",
        "real_loss_decrease",
    ),
    "distance_to_init": ("distance_to_init_l2", "distance_to_init_cosine"),
    "optimizer": ("learning_rate",),
    "masks": (
        "sparsity",
        "active_weights",
        "exploration_rate",
        "mask_churn",
        "zeroed_neurons",
        "unique_neurons",
        "mask_permutations_log10",
    ),
    "cost": ("training_flops",),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


def group_name(name: str) -> str:
    """Puts a measurement into a group.

    Args:
      name: in metrics.jsonl.

    Returns:
      The name with its group before a slash. A measurement by layer or kernel is in the group of its own.

    Examples:
      >>> from sparse_lib.experiment.tracking.tags import group_name
      >>> group_name("test_accuracy"), group_name("sparsity"), group_name("sparsity/conv1/kernel")
      ('accuracy/test', 'masks/sparsity', 'sparsity/conv1/kernel')
    """
    if "/" in name:
        return name
    split, _, measure = name.partition("_")
    if split in _SPLITS and measure in ("loss", "accuracy"):
        return f"{measure}/{split}"
    # Norms of optimizer slots are called like the slots.
    group = _GROUP_OF.get(name, "optimizer" if name.endswith("_norm") else "other")
    return f"{group}/{name.removeprefix(f'{group}_')}"
