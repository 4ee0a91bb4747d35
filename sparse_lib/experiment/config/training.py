"""What `training.*` configures: length of a run, seeds, batches, log steps and checkpoints."""

import dataclasses

from sparse_lib.experiment.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings, name="training"):
    """Length, seeds, batches, log steps and checkpoints of a run.

    Attributes:
      seed: of everything random in the run.
      data_seed: of the order and augmentation of the training images alone; None takes `seed`. Copies of a run that
        continue from one checkpoint differ in it (Frankle et al. 2020).
      total_steps: length of the run (step).
      batch_size: examples per step, over all replicas (count).
      val_batch_size: validation examples that gradient norms are measured on, at most (count); 1000 in the paper's
        code.
      save_freq: steps between checkpoints (step).
      log_freq: steps between measurements (step), which never change the run.
      use_metainit: whether MetaInit rescales the initial weights (Dauphin & Schoenholz 2019).
      oneshot_prune_fraction: sparsity of one-shot pruning before the first step (fraction); 0 prunes nothing.
      label_smoothing: share of the training target spread evenly over all classes (fraction); 0.1 for ImageNet in the
        RigL paper. Reported losses are without it.
      gradient_regularization: lambda of the penalty lambda/2 ||g||^2 on the masked gradient of the loss.
      keep_checkpoints: checkpoints that are kept, beside the first (count); None keeps all.
      save_update_pairs: whether each mask update saves `ckpt--(t-1)` before and `ckpt--t` after it, for spectra.
      jit_compile: whether XLA compiles the training loop; None chooses by network and device.
    """

    seed: int = 0
    data_seed: int | None = None
    total_steps: int = 5000
    batch_size: int = 128
    val_batch_size: int = 1000
    save_freq: int = 500
    log_freq: int = 250
    use_metainit: bool = False
    oneshot_prune_fraction: float = 0.0
    label_smoothing: float = 0.0
    gradient_regularization: float = 0.0
    keep_checkpoints: int | None = 25
    save_update_pairs: bool = False
    jit_compile: bool | None = None

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          SettingError: names the setting and its valid values.
        """
        super().__post_init__()
        for name in ("total_steps", "batch_size", "val_batch_size", "save_freq", "log_freq"):
            self.require(getattr(self, name) >= 1, name, "must be at least 1")
        keep = self.keep_checkpoints
        self.require(keep is None or keep >= 1, "keep_checkpoints", "must be at least 1, or None to keep all")
        self.require(0 <= self.oneshot_prune_fraction < 1, "oneshot_prune_fraction", "must be at least 0 and below 1")
        self.require(0 <= self.label_smoothing < 1, "label_smoothing", "must be at least 0 and below 1")
        self.require(self.gradient_regularization >= 0, "gradient_regularization", "must be at least 0")
        self.require(self.seed >= 0, "seed", "must be at least 0")
        self.require(self.data_seed is None or self.data_seed >= 0, "data_seed", "must be at least 0, or None")
