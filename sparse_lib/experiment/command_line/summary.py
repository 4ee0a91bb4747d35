"""What a start, an end and a dry run of train.py say."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._utils.tables import text_table
from sparse_lib.experiment.command_line.shell import join_words
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.config.mask_updates import schedule_warning
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import list_steps
from sparse_lib.experiment.storage.description import Description
from sparse_lib.experiment.training.build import Built
from sparse_lib.experiment.training.cost import Cost

# Folders of mode files, by network; the other networks have a file each.
_FOLDERS = {"lenet5": "configs", "mlp": "mlp_configs"}


def format_start(experiment: Experiment, described: Description, directory: pathlib.Path, *, overwrite: bool) -> str:
    """Formats in three lines what will run, on what, and where.

    Args:
      experiment: to train.
      described: what run.json says of it.
      directory: of the run.
      overwrite: whether a run there is replaced.

    Returns:
      The lines, without a line break at the end.
    """
    training, sparsity = experiment.training, described.target_sparsity
    masks = f"masks of {described.mask_source}" if math.isnan(sparsity) else f"sparsity {sparsity:g}"
    size = f"{training.total_steps:,} steps of {training.batch_size} examples, seed {described.seed}"
    return "\n".join(
        [
            f"Train: {described.method}, {described.setting}, {masks}, {size}",
            f"On:    {_format_devices()}, execution {training.execution}",
            f"In:    {directory}, {_format_state(directory, overwrite=overwrite)}",
        ]
    )


def _format_devices() -> str:
    """Names the devices of the current strategy, and the threads of a processor."""
    # Without a strategy, as on a machine without accelerators, all is on the processor.
    devices = tf.distribute.get_strategy().extended.worker_devices if tf.distribute.has_strategy() else ["device:CPU:0"]
    names = [name.rpartition("device:")[2] for name in devices]
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS")
    count = int(threads or len(os.sched_getaffinity(0)))
    shown = f"{len(names)} devices ({names[0]} to {names[-1]})" if len(names) > 2 else " and ".join(names)
    return f"{shown}, {count} thread{'' if count == 1 else 's'}"


def _format_state(directory: pathlib.Path, *, overwrite: bool) -> str:
    if not (directory / files.OPERATIVE_CONFIG).exists():
        return "a new run"
    if overwrite:
        return "in place of the run there"
    if (directory / files.RESULT).exists():
        return "which is finished"
    steps = list_steps(directory)
    return f"from step {steps[-1]:,} on" if steps else "from the start, as no checkpoint is there"


def format_end(described: Description, directory: pathlib.Path, result: Mapping[str, Any]) -> str:
    """Formats the result of a run, its files, and a command to go on with.

    Args:
      described: what run.json says of the run.
      directory: of the run.
      result: contents of result.json.

    Returns:
      The lines, without a line break at the end.
    """
    # JSON has null for NaN.
    numbers = {name: math.nan if value is None else value for name, value in result.items()}
    validation = numbers.get("validation_accuracy", math.nan)
    first = "" if math.isnan(validation) else f"validation accuracy {validation:.4f}, "
    values = (
        f"{first}test accuracy {numbers['test_accuracy']:.4f}, sparsity {numbers['sparsity']:.4f}, "
        f"{numbers['active_parameters']:,} active of {numbers['total_parameters']:,} parameters, "
        f"{numbers['steps_per_second']:.0f} steps/s"
    )
    return "\n".join(
        [
            f"{directory}: {values}",
            f"Files: {directory / files.RESULT}, {files.METRICS}, ckpt-{described.total_steps}; curves: tensorboard "
            f"--logdir={join_words([str(directory)])}",
            f"Next:  {join_words(_suggest_command(described, directory))}",
        ]
    )


def _suggest_command(described: Description, directory: pathlib.Path) -> list[str]:
    """Returns the command that most people type next: a ticket from a pruned run, the spectrum of another."""
    folder = _FOLDERS.get(described.network)
    if described.method.partition(".")[0] not in ("prune", "prune_global", "prune_once"):
        config = f"{folder or 'configs'}/hessian.gin"
        return ["python", "hessian.py", f"--logdir={directory}", f"--gin_config={config}"]
    names = [f"{folder}/lottery.gin"]
    if folder is None:
        names = [f"configs/networks/{described.network}.gin", "configs/methods/lottery.gin"]
    return [
        *("python", "train.py", f"--logdir={directory}_ticket", *(f"--gin_config={name}" for name in names)),
        *(f"--gin_bindings=PRUNED_RUN='{directory}'", f"--gin_bindings=PRUNED_START='{directory / 'ckpt-0'}'"),
    ]


def format_plan(built: Built, config: str) -> str:
    """Formats what a dry run shows: configuration, network, masks, cost and mask updates.

    Args:
      built: the parts of the run, at its first step.
      config: the complete configuration as text.

    Returns:
      The text, without a line break at the end.
    """
    parts = {
        "Configuration": config.strip(),
        "Network": _format_network(built.model),
        "Masks before the first step": built.optimizer.masks.report(),
        "Cost under these masks": _format_cost(built),
        "Mask updates": _format_updates(built),
    }
    return "\n\n".join(f"== {title}\n{text}" for title, text in parts.items())


def _format_network(model: keras.Model) -> str:
    rows = [
        [layer.name, type(layer).__name__, "x".join(map(str, layer.output.shape[1:])), f"{layer.count_params():,}"]
        for layer in model.layers
    ]
    return text_table([["layer", "type", "output", "parameters"]], rows, left=(0, 1))


def _format_cost(built: Built) -> str:
    cost = Cost(built.model, built.optimizer)
    sizes = cost.sizes()
    share = sizes["inference_flops"] / sizes["dense_inference_flops"]
    step = cost.training_flops(1, built.settings.batch_size)
    return "\n".join(
        [
            f"parameters        {sizes['active_parameters']:,} active of {sizes['total_parameters']:,}",
            f"size              {sizes['size_bytes']:,} bytes",
            f"inference         {sizes['inference_flops']:,} FLOPs per example, {share:.1%} of the dense network",
            f"training          {step:,} FLOPs per step, {step * built.settings.total_steps:.3g} in all if masks stay",
        ]
    )


def _format_updates(built: Built) -> str:
    updater, total = built.optimizer.updater, built.settings.total_steps
    if updater.changes_every_step:
        return f"{type(updater).__name__}: at every step"
    steps = updater.schedule.steps(0, total)
    if not steps:
        return f"{type(updater).__name__}: none"
    text = f"{type(updater).__name__}: {len(steps):,}, from step {steps[0]:,} to {steps[-1]:,}"
    return "\n".join(filter(None, [text, schedule_warning(updater, total)]))
