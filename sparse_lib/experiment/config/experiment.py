"""The record of an experiment: its data set and all settings that decide the outcome of a run."""

import dataclasses
from typing import Self

from sparse_lib.experiment.config import gin_names
from sparse_lib.experiment.config.iterative_pruning import IterativePruningSettings
from sparse_lib.experiment.config.mask_updates import PruningSettings, UpdaterSettings
from sparse_lib.experiment.config.masks import MaskSettings, OneShotSettings
from sparse_lib.experiment.config.network import MaskInit, MetaInitSettings, NetworkSettings
from sparse_lib.experiment.config.optimizer import OptimizerSettings
from sparse_lib.experiment.config.small_dense import SmallDenseSettings
from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.data import Dataset, load_dataset
from sparse_lib.experiment.networks import Network
from sparse_lib.experiment.runtime.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the outcome of a run.

    Attributes:
      dataset: train, validation and test.
      training: length, batches, log steps and checkpoints.
      network: which network, and the checkpoints of its masks and weights.
      sizes: of that network.
      masks: random masks.
      oneshot: one-shot pruning.
      pruning: gradual pruning.
      mask_updater: dynamic sparse training.
      optimizer: the inner optimizer.
      metainit: MetaInit, used if training.use_metainit.
      initializer: (mask, seed, inputs, outputs) -> kernel, or None for the dense initialisation.
      iterative_pruning: a step of magnitude pruning of the checkpoint that the masks are read from.
      small_dense: the sparse network whose cost a dense one has; `sizes` are those found for it.
    """

    dataset: Dataset
    training: TrainingSettings
    network: NetworkSettings
    sizes: Network
    masks: MaskSettings
    oneshot: OneShotSettings
    pruning: PruningSettings
    mask_updater: UpdaterSettings
    optimizer: OptimizerSettings
    metainit: MetaInitSettings
    initializer: MaskInit | None = None
    iterative_pruning: IterativePruningSettings = IterativePruningSettings()
    small_dense: SmallDenseSettings = SmallDenseSettings()

    def __post_init__(self) -> None:
        """Checks that the masks have one source.

        Raises:
          SettingError: if one-shot pruning would overwrite other masks, or there is nothing to prune.
        """
        if self.iterative_pruning.fraction and not self.network.mask_init_path:
            raise SettingError(
                "iterative_pruning.fraction prunes the checkpoint of network.mask_init_path; set that too."
            )
        others = {"network.mask_init_path": self.network.mask_init_path, "masks.sparsity": self.masks.sparsity}
        overwritten = [name for name, value in others.items() if value and self.training.oneshot_prune_fraction]
        if overwritten:
            raise SettingError(
                f"training.oneshot_prune_fraction would overwrite the masks of {overwritten[0]}; leave one of them out."
            )

    @property
    def starts_dense(self) -> bool:
        """Whether every weight is active at the first step."""
        return not (self.network.mask_init_path or self.masks.sparsity or self.training.oneshot_prune_fraction)

    @classmethod
    def from_gin(cls) -> Self:
        """Reads the parsed gin configuration and loads its data set.

        Returns:
          The experiment.

        Raises:
          SettingError: for a value that a setting cannot have.
          InputError: if the data set is not to be had.
        """
        network, training = gin_names.network(), gin_names.training()
        pruning, mask_updater = gin_names.pruning(), gin_names.mask_updater()
        if training.save_update_pairs is None:
            saves_pairs = pruning.is_off_as_in_rigl_tf2 and not mask_updater.is_off
            training = dataclasses.replace(training, save_update_pairs=saves_pairs)
        method = network.weight_init_method
        experiment = cls(
            training=training,
            network=network,
            sizes=gin_names.NETWORKS[network.network_name](),
            masks=gin_names.masks(),
            oneshot=gin_names.oneshot(),
            pruning=pruning,
            mask_updater=mask_updater,
            optimizer=gin_names.optimizer(),
            metainit=gin_names.metainit(),
            initializer=gin_names.INITIALIZERS[method]() if method else None,
            dataset=load_dataset(gin_names.data()),
            iterative_pruning=gin_names.iterative_pruning(),
            small_dense=gin_names.small_dense(),
        )
        data = experiment.dataset
        sizes = experiment.small_dense.fit(network, experiment.sizes, data.input_shape, data.num_classes)
        return dataclasses.replace(experiment, sizes=sizes)
