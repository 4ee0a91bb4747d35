"""What `training.*` configures: length of a run, seeds, batches, log steps and checkpoints."""

import dataclasses
from collections.abc import Sequence

from sparse_lib.execution import Mode
from sparse_lib.experiment.settings import BatchSize, Count, Length, NonNegative, Seed, Settings, Share, Step


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
      save_steps: more steps whose checkpoints are saved, and kept whatever keep_checkpoints is, such as those that
        weights are rewound to (step).
      log_freq: steps between measurements (step), which never change the run.
      use_metainit: whether MetaInit rescales the initial weights (Dauphin & Schoenholz 2019).
      oneshot_prune_fraction: sparsity of one-shot pruning before the first step (fraction); 0 prunes nothing.
      label_smoothing: share of the training target spread evenly over all classes (fraction); 0.1 for ImageNet in the
        RigL paper. Reported losses are without it.
      gradient_regularization: lambda of the penalty lambda/2 ||g||^2 on the masked gradient of the loss.
      keep_checkpoints: checkpoints that are kept, beside the first and the best (count); None keeps all.
      keep_best: whether the log step with the highest validation accuracy, of equal ones that with the lowest loss,
        becomes a checkpoint that is kept: `best_validation_step` of result.json, and `ckpt-best` on command lines.
      save_update_pairs: whether each mask update saves `ckpt--(t-1)` before and `ckpt--t` after it, for spectra. None
        does so, as rigl_tf2, where masks are updated by one of its gin files: these switch pruning off by
        pruning.mode='constant' with pruning.final_sparsity=0.
      log_mask_images: whether TensorBoard gets an image of every mask at each log step, and of the connections of every
        input pixel where the first sparse layer reads pixels.
      log_mask_symmetry: whether a log step counts the permutations of neurons that leave the masks as they are, and the
        unique and the zeroed neurons; for networks whose layers form a chain.
      dormant_threshold: tau of the units that are dormant (Sokar et al. 2023), 0.025 or 0.1 in their paper; above 0,
        log steps count them beside the dead ones.
      recycle_freq: steps between recyclings of the dormant units by ReDo (step), 1000 in its paper; None never does so.
        For networks whose layers form a chain.
      jit_compile: whether XLA compiles the training loop; None chooses by network and device.
      execution: whether layers multiply by their active weights alone between mask updates: `sparse` where there is
        such a product, `auto` where it pays on this machine, `dense` nowhere. The results are the same up to rounding,
        and a run may go on with another execution.
    """

    seed: Seed = 0
    data_seed: Seed | None = None
    total_steps: Length = 5000
    batch_size: BatchSize = 128
    val_batch_size: Count = 1000
    save_freq: Count = 500
    save_steps: Sequence[Step] = ()
    log_freq: Count = 250
    use_metainit: bool = False
    oneshot_prune_fraction: Share = 0.0
    label_smoothing: Share = 0.0
    gradient_regularization: NonNegative = 0.0
    keep_checkpoints: Count | None = 25
    keep_best: bool = False
    save_update_pairs: bool | None = None
    log_mask_images: bool = False
    log_mask_symmetry: bool = False
    dormant_threshold: NonNegative = 0.0
    recycle_freq: Count | None = None
    jit_compile: bool | None = None
    execution: Mode = "auto"
