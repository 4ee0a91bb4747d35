"""Builds the parts of a run from its experiment: network, masks, initial weights, optimizer, compiled steps."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from sparse_lib.execution import Execution
from sparse_lib.experiment import modes
from sparse_lib.experiment.config.description import Description, describe
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.data import Dataset
from sparse_lib.experiment.storage import sources
from sparse_lib.experiment.training.metrics import select_held_out
from sparse_lib.experiment.training.steps import Steps, wants_xla
from sparse_lib.masks import Masks
from sparse_lib.objective import Scope
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.updaters import Updater


class Built(NamedTuple):
    """The parts of a run.

    Attributes:
      model: the network.
      optimizer: with masks and updater.
      steps: the compiled steps.
      dataset: train, validation and test.
      settings: length, and intervals of logs and checkpoints.
    """

    model: keras.Model
    optimizer: SparseOptimizer
    steps: Steps
    dataset: Dataset
    settings: TrainingSettings


class Plan(NamedTuple):
    """A run before it is built. Nothing is built of a finished run, nor of one whose directory is refused.

    Attributes:
      build: builds the parts; its argument `fresh` tells a new run from a resumed one.
      description: the content of run.json.
    """

    build: Callable[..., Built]
    description: Description


def plan_run(experiment: Experiment) -> Plan:
    """Plans the run of an experiment.

    Args:
      experiment: what to train.

    Returns:
      The plan; the configuration ends here, and the run knows only what is built.
    """
    return Plan(functools.partial(build_run, experiment), describe(experiment, experiment.dataset.name))


def build_model(experiment: Experiment) -> keras.Model:
    """Builds the network with its dense initial weights.

    Fresh weights under the masks of another run are drawn from a separate stream: with the seed of that run they would
    be the weights that it started from, and scratch would be the lottery ticket.

    Args:
      experiment: names network, seed and data set.

    Returns:
      The network.
    """
    network, dataset = experiment.network, experiment.dataset
    is_fresh = bool(network.mask_init_path) and not network.weight_init_path
    stream = 2 * experiment.training.seed + is_fresh
    return network.build(dataset.input_shape, dataset.num_classes, stream, experiment.sizes)


def build_evaluation_scope(experiment: Experiment, model: keras.Model) -> Scope:
    """Builds the execution of a network that is evaluated at any weights.

    Args:
      experiment: names the kernels and the execution.
      model: its network.

    Returns:
      Makes a context for each call of the network.
    """
    kernels = experiment.network.kernels(model)
    masks = Masks(list(kernels.values()), names=list(kernels))
    return Execution(model, masks, experiment.training.execution).at_weights


def build_updater(experiment: Experiment) -> Updater:
    """Builds the updater of the masks.

    Args:
      experiment: names method and schedules.

    Returns:
      The updater.

    Raises:
      SettingError: for settings that contradict each other.
    """
    return experiment.mask_updater.build(
        experiment.pruning.build(),
        experiment.optimizer.rate(experiment.training.total_steps),
        peak_rate=experiment.optimizer.learning_rate,
        total_steps=experiment.training.total_steps,
        dense_start=experiment.starts_dense,
    )


def build_run(experiment: Experiment, *, fresh: bool) -> Built:
    """Builds network, masks, weights, optimizer and compiled steps, under the current strategy.

    Args:
      experiment: what to train.
      fresh: whether the run starts; a resumed run reads masks and weights from its checkpoint, so that one-shot
        pruning, MetaInit and the checkpoints of other runs are not needed again.

    Returns:
      The parts of the run.

    Raises:
      SettingError: for settings that contradict each other.
      RunError: if a checkpoint of masks or weights is missing, or does not fit.
    """
    training, seed = experiment.training, experiment.training.seed
    updater = build_updater(experiment)
    model = build_model(experiment)
    # Before the masks: growth may return to these weights, and one-shot pruning scores them.
    if fresh and experiment.network.weight_init_path:
        sources.load(experiment.network.weight_init_path, model)
    masks = modes.build_masks(experiment, model, fresh=fresh)
    if fresh:
        modes.initialize_weights(experiment, model, masks)
    growth: Any = experiment.mask_updater.growth_gradient
    if growth == "held_out" or updater.needs_hessian:
        growth = modes.held_out_growth(
            model, masks, select_held_out(experiment.dataset), training.val_batch_size, updater
        )
    rate = experiment.optimizer.rate(training.total_steps)
    optimizer = SparseOptimizer(
        experiment.optimizer.build(rate),
        masks,
        updater,
        growth_gradient=growth,
        rate_scaling=experiment.optimizer.rate_scaling,
        seed=seed,
    )
    optimizer.build(model.trainable_variables)
    execution = Execution(model, masks, training.execution, jit_compile=bool(training.jit_compile))
    optimizer.lead(execution, xla=wants_xla(model) if training.jit_compile is None else training.jit_compile)
    steps = Steps(
        model,
        optimizer,
        experiment.dataset.train,
        batch_size=training.batch_size,
        seed=seed if training.data_seed is None else training.data_seed,
        augmentation=experiment.dataset.augmentation,
        label_smoothing=training.label_smoothing,
        gradient_regularization=training.gradient_regularization,
        weight_decay_warmup=experiment.network.weight_decay_warmup,
        jit_compile=training.jit_compile,
        execution=execution,
    )
    return Built(model, optimizer, steps, experiment.dataset, training)
