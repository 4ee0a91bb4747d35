"""Modes as composition: a mask source, a weight source and an updater make a run."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import api, gradient_flow, initializers, metainit
from sparse_lib.api import kernel_structures
from sparse_lib.experiment.data import Dataset, Split, batch_indices
from sparse_lib.experiment.storage import sources
from sparse_lib.masks import Masks, random_masks
from sparse_lib.objective import Objective
from sparse_lib.oneshot import OneShot
from sparse_lib.optimizer import Growth
from sparse_lib.structures import UNSTRUCTURED, Structure
from sparse_lib.updaters import Updater

Kernels = Mapping[str, keras.Variable]
MaskInit = Callable[..., tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSource:
    """Where the masks of a run come from: a checkpoint, one-shot pruning, a distribution, or nowhere (all active).

    Attributes:
      checkpoint: whose masks to take.
      shuffle: whether to shuffle them within each layer.
      oneshot: how to prune before the first step.
      oneshot_examples: how many training examples one-shot pruning sees (count).
      counts: kernels by name -> active weights of each, for masks at random places (count).
      structure: which weights may be active together, at the start and at every update.
    """

    checkpoint: str | os.PathLike[str] | None = None
    shuffle: bool = False
    oneshot: OneShot | None = None
    oneshot_examples: int = 1000
    counts: Callable[[Kernels], Mapping[str, int]] | None = None
    structure: Structure = UNSTRUCTURED

    @property
    def is_dense(self) -> bool:
        """Whether every weight starts active."""
        return not self.checkpoint and self.oneshot is None and self.counts is None

    def masks(self, model: keras.Model, kernels: Kernels, dataset: Dataset, seed: int) -> Masks:
        """Makes the masks and puts them on the kernels.

        Args:
          model: the network with its initial weights.
          kernels: name to variable.
          dataset: one-shot pruning looks at its training split.
          seed: of random masks, shuffles and one-shot batches.

        Returns:
          The masks; what they leave out is zero.
        """
        masks = self.full(model, kernels)
        values = self._values(model, kernels, dataset, seed, masks.structures)
        if values is not None:
            masks.assign(values)
        if self.shuffle:
            masks.assign(masks.shuffled(seed))
        return masks

    def full(self, model: keras.Model, kernels: Kernels) -> Masks:
        """Masks that leave nothing out, of the structure; a checkpoint may be restored into them.

        Args:
          model: the network.
          kernels: name to variable.

        Returns:
          The masks.
        """
        structures = kernel_structures(model, kernels.values(), self.structure)
        return Masks(list(kernels.values()), names=list(kernels), structures=structures)

    def _values(
        self, model: keras.Model, kernels: Kernels, dataset: Dataset, seed: int, structures: Sequence[Structure]
    ) -> list[tf.Tensor] | None:
        shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
        if self.checkpoint:
            stored = sources.masks(self.checkpoint, model, kernels)
            return [tf.constant(stored[name]) for name in kernels]
        if self.oneshot is not None:
            batches = self._batches(dataset, seed)
            return self.oneshot.masks(Objective(model), kernels, batches, structures=structures, seed=seed)
        if self.counts is None:
            return None
        counts = self.counts(kernels)
        values = random_masks(list(shapes.values()), [counts[name] for name in shapes], seed, structures)
        return [tf.constant(value) for value in values]

    def _batches(self, dataset: Dataset, seed: int) -> list[tuple[tf.Tensor, tf.Tensor]]:
        size = min(self.oneshot_examples, len(dataset.train))
        rows = batch_indices(seed=seed, first_step=0, steps=1, batch_size=size, n=len(dataset.train))[0]
        parts = np.array_split(rows, -(-size // 1000))
        return [(tf.constant(dataset.train.images[part]), tf.constant(dataset.train.labels[part])) for part in parts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Where the weights of a run come from: a checkpoint of any step (rewinding), a sparse-aware init, or as they are.

    Attributes:
      checkpoint: whose weights to take.
      initializer: (mask, seed, inputs, outputs) -> kernel, a sparse-aware initialiser; None keeps the dense one.
      noise_stddev: standard deviation of normal noise on every trainable weight.
      metainit: settings of MetaInit, or None.
    """

    checkpoint: str | os.PathLike[str] | None = None
    initializer: MaskInit | None = None
    noise_stddev: float = 0.0
    metainit: Mapping[str, Any] | None = None

    def load(self, model: keras.Model) -> None:
        """Takes the checkpoint's weights, before any mask is applied.

        Args:
          model: the network; its variables are assigned.
        """
        if self.checkpoint:
            sources.load(self.checkpoint, model)

    def initialize(self, model: keras.Model, masks: Masks, num_classes: int, seed: int) -> None:
        """Re-initialises the kernels for their masks, adds noise, runs MetaInit; masked weights stay zero.

        Args:
          model: the network; its trainable variables are assigned.
          masks: of its kernels.
          num_classes: number of logits (count).
          seed: of the draws.
        """
        if self.initializer is not None and not self.checkpoint:
            axes = api.kernel_axes(model, masks.kernels)
            for index, ((kernel, mask), (inputs, outputs)) in enumerate(zip(masks, axes, strict=True)):
                draw = {"seed": seed * 1_000 + index, "inputs": inputs, "outputs": outputs}
                kernel.assign(self.initializer(tf.convert_to_tensor(mask), **draw))
        variables = model.trainable_variables
        if self.noise_stddev:
            for index, variable in enumerate(variables):
                place = seed * 1_000 + len(variables) + index
                variable.assign(initializers.add_noise(variable.value, stddev=self.noise_stddev, seed=place))
        masks.project()
        if self.metainit is not None:
            values = metainit.metainit(
                model, masks.aligned(variables), num_classes=num_classes, seed=seed, **self.metainit
            )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def held_out_growth(
    model: keras.Model, masks: Masks, split: Split, size: int, updater: Updater
) -> Callable[[], Growth]:
    """Growth gradients from a fixed batch, as the ancestor scores them.

    Args:
      model: the network.
      masks: of its kernels.
      split: the batch is its end; measurements take the start, and meet the batch only in a small split.
      size: at most so many examples, and at most half of the split (count).
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
        wanted = [gradients[p] for p in positions]
        if not updater.needs_hessian:
            return Growth(wanted)
        products = objective.hvp(params, x, y, gradient_flow.apply_masks(gradients, masks.aligned(variables)))
        return Growth(wanted, [products[p] for p in positions])

    return growth
