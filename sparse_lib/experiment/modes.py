"""Initial masks and weights of a run; a mode combines a source of masks, a source of weights and an updater."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import api, gradient_flow, initializers, signs
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.data import Split, batch_indices
from sparse_lib.experiment.storage import sources
from sparse_lib.masks import Masks, random_masks
from sparse_lib.metainit import metainit
from sparse_lib.objective import Objective
from sparse_lib.optimizer import Growth
from sparse_lib.structures import Structure
from sparse_lib.updaters import Updater

_ONESHOT_BATCH = 1000


def build_masks(experiment: Experiment, model: keras.Model, *, fresh: bool) -> Masks:
    """Creates the masks; those of a resumed run are dense, and its checkpoint is restored into them.

    Args:
      experiment: names kernels, structure and the source of the masks.
      model: the network, at the weights that one-shot pruning scores.
      fresh: whether the run starts.

    Returns:
      The masks; masked weights are zero.

    Raises:
      SettingError: if no layer of the network is sparse, or one-shot pruning has no score.
      RunError: if a checkpoint of masks is missing, or does not fit.
    """
    kernels = experiment.network.kernels(model)
    structures = api.kernel_structures(model, kernels.values(), experiment.masks.parsed_structure)
    values = _initial_masks(experiment, model, kernels, structures) if fresh else None
    masks = Masks(list(kernels.values()), values, names=list(kernels), structures=structures)
    if fresh and experiment.network.shuffle_mask:
        masks.assign(masks.shuffled(experiment.training.seed))
    if fresh and experiment.network.invert_mask:
        masks.assign([~mask for mask in masks.values()])
    return masks


def _initial_masks(
    experiment: Experiment, model: keras.Model, kernels: Mapping[str, keras.Variable], structures: Sequence[Structure]
) -> list[tf.Tensor] | None:
    """Masks of a checkpoint, of its largest weights, of one-shot pruning or at random places; None if dense."""
    seed, shapes = experiment.training.seed, [tuple(kernel.shape) for kernel in kernels.values()]
    if path := experiment.network.mask_init_path:
        stored = sources.masks(path, model, kernels)
        masks = [tf.constant(stored[name]) for name in kernels]
        if not experiment.iterative_pruning.fraction:
            return masks
        trained = sources.weights(path, model, kernels)
        parts = zip((tf.constant(trained[name]) for name in kernels), masks, structures, strict=True)
        return experiment.iterative_pruning.prune(dict(zip(kernels, parts, strict=True)))
    if sparsity := experiment.training.oneshot_prune_fraction:
        oneshot = experiment.oneshot.build(sparsity, experiment.mask_updater.update_alg)
        examples = experiment.oneshot.count_examples(experiment.training.val_batch_size)
        batches = _oneshot_batches(experiment.dataset.train, examples, seed)
        return oneshot.masks(Objective(model), kernels, batches, structures=structures, seed=seed)
    if experiment.masks.sparsity:
        counts = experiment.masks.counts(kernels)
        return [tf.constant(v) for v in random_masks(shapes, [counts[name] for name in kernels], seed, structures)]
    return None


def _oneshot_batches(train: Split, size: int, seed: int) -> list[tuple[tf.Tensor, tf.Tensor]]:
    size = min(size, len(train))
    rows = batch_indices(seed=seed, first_step=0, steps=1, batch_size=size, n=len(train))[0]
    parts = np.array_split(rows, -(-size // _ONESHOT_BATCH))
    return [(tf.constant(train.images[part]), tf.constant(train.labels[part])) for part in parts]


def initialize_weights(experiment: Experiment, model: keras.Model, masks: Masks) -> None:
    """Draws the kernels for their masks, changes signs, adds noise, runs MetaInit, each if configured.

    Masked weights stay zero.

    Args:
      experiment: names initialisation, signs, noise and MetaInit.
      model: the network; its trainable variables are assigned.
      masks: of its kernels.
    """
    seed, variables = experiment.training.seed * 1_000, model.trainable_variables
    if experiment.initializer is not None:
        api.draw_kernels(model, masks, experiment.initializer, seed=seed)
    if text := experiment.network.weight_init_signs:
        # The initial values before masking, unless the kernels are drawn for their masks.
        is_drawn = experiment.initializer is not None
        for index, (kernel, _) in enumerate(masks):
            source = kernel.numpy() if is_drawn else masks.initial[index]
            kernel.assign(signs.change(text, kernel.numpy(), source, seed=experiment.training.seed, index=index))
    if stddev := experiment.network.noise_stddev:
        # The seeds after those of the kernels.
        for index, variable in enumerate(variables, start=seed + len(variables)):
            variable.assign(initializers.add_noise(variable.value, stddev=stddev, seed=index))
    masks.project()
    if experiment.training.use_metainit:
        settings = dataclasses.asdict(experiment.metainit)
        num_classes = experiment.dataset.num_classes
        values = metainit(
            model, masks.aligned(variables), num_classes=num_classes, seed=experiment.training.seed, **settings
        )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def held_out_growth(
    model: keras.Model, masks: Masks, split: Split, size: int, updater: Updater
) -> Callable[[], Growth]:
    """Growth gradients from a fixed batch, as in rigl_tf2.

    Args:
      model: the network.
      masks: of its kernels.
      split: the batch is its end; measurements take the start, and overlap with the batch only in a small split.
      size: examples of the batch, at most half of the split (count).
      updater: which may need Hessian products as well.

    Returns:
      A function that computes the growth gradients from the live weights.
    """
    size = min(size, max(len(split) // 2, 1))
    x, y = tf.constant(split.images[-size:]), tf.constant(split.labels[-size:])
    objective, variables = Objective(model), model.trainable_variables
    places = {id(v): i for i, v in enumerate(variables)}
    positions = [places[id(kernel)] for kernel in masks.kernels]

    def growth() -> Growth:
        params = objective.params()
        gradients = objective.gradient(params, x, y)
        of_kernels = [gradients[p] for p in positions]
        if not updater.needs_hessian:
            return Growth(of_kernels)
        products = objective.hvp(params, x, y, gradient_flow.apply_masks(gradients, masks.aligned(variables)))
        return Growth(of_kernels, [products[p] for p in positions])

    return growth
