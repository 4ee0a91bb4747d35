"""What `hessian.*`, `interpolate.*`, `surface.*` and `instability.*` configure: the analyses of finished runs."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from sparse_lib.experiment.data import SPLITS
from sparse_lib.experiment.settings import (
    BatchSize,
    Count,
    Length,
    NonNegative,
    Positive,
    Range,
    Seed,
    Settings,
    Size,
    Step,
)

_Coefficient = Annotated[float, Range(at_least=-1_000_000, at_most=1_000_000)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HessianSettings(Settings, name="hessian"):
    """Spectra of the curvature at checkpoints of a run, in the space of its active weights and biases.

    Attributes:
      ckpt_ids: steps of the checkpoints (step); a negative one is of a pair around a mask update. None takes all.
      overwrite: whether to recompute existing results.
      batch_size: training examples that the loss is averaged over, the same for every checkpoint (count); the
        gradient-flow paper takes all 60,000 of MNIST.
      rows_at_once: rows of the Hessian that are computed and stored together (count).
      is_dense_spectrum: whether the eigenvalue 0 of every masked weight is listed as well.
      space: `active` weights and biases, or `all`, including masked weights.
      layers: pattern of layers or variables, such as `conv*` or `conv1/kernel`, that selects a block of the matrix;
        None takes the whole matrix.
      operator: the matrix: the Hessian, its Gauss-Newton part, or the Fisher information of the model's own labels
        (`fisher`) or of the data's (`empirical_fisher`).
      method: `exact` forms the matrix; `lanczos` estimates extreme eigenvalues, density and trace from products with
        it; `auto` is exact up to `max_exact` parameters.
      max_exact: parameters of the largest matrix that is formed (count).
      dtype: of the derivatives; eigenvalues are always computed in float64.
      examples_at_once: examples per pass (count), which bounds the memory; None takes 1,000, or as many as have 400,000
        pixels: 510 images of MNIST, 130 of CIFAR.
      n_eigenvalues: eigenvalues at each end, for `lanczos`, and eigenvectors the gradient is compared with (count).
      precision: relative standard error at which the estimate of the trace stops (fraction).
      max_probes: random vectors per estimate, at most (count).
      lanczos_steps: steps of each probe of the density (count); 80 give the ten largest to float32 precision.
      seed: of probes and starting vectors.
      folder: of the results, inside the run's directory.
    """

    ckpt_ids: Sequence[int] | None = None
    overwrite: bool = False
    batch_size: Count = 1000
    rows_at_once: Count = 10
    is_dense_spectrum: bool = False
    space: Literal["active", "all"] = "active"
    layers: str | None = None
    operator: Literal["hessian", "gauss_newton", "fisher", "empirical_fisher"] = "hessian"
    method: Literal["auto", "exact", "lanczos"] = "auto"
    max_exact: Count = 12_000
    dtype: Literal["float64", "float32"] = "float64"
    examples_at_once: Count | None = None
    n_eigenvalues: Count = 10
    precision: Positive = 0.05
    # An error bar takes two probes.
    max_probes: Annotated[int, Range(at_least=2, at_most=1_000_000)] = 30
    lanczos_steps: Size = 80
    seed: Seed = 0
    folder: str = "hessian"

    def __post_init__(self) -> None:
        """Checks what no range of one setting expresses.

        Raises:
          SettingError: names the setting and its valid values.
        """
        super().__post_init__()
        plain = self.folder not in ("", ".", "..") and "/" not in self.folder
        self.require(plain, "folder", "must be the name of a folder, such as 'hessian'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolateSettings(Settings, name="interpolate"):
    """The path between two checkpoints, and the points on it at which loss and accuracy are computed.

    Attributes:
      i_start: smallest coefficient; -0.2 in the gradient-flow paper (figure 5), beyond both ends.
      i_end: largest coefficient; 1.2 in the paper.
      n_interpolation: points, including both of these (count); 29 in the paper, 0.05 apart. The ends of the path, 0 and
        1, are added if they are missing.
      path: the straight `line`, or a Bezier curve, `quadratic` or `cubic`, whose inner control points are trained to
        keep the loss low (Garipov et al. 2018; RigL paper, figure 6).
      masks: `own` masks each end by its own mask, `start` or `end` both by one, `union` both by the union, `none`
        neither. A curve stays in the subspace of that mask (of the union for `own`, of all weights for `none`).
      match: whether the hidden units of the end are permuted first, with masks and statistics, to bring it close to the
        start by weight matching (Ainsworth et al. 2022); for networks whose layers form a chain.
      batch_norm: statistics of batch-norm layers on the path: re-estimated at each point (`reestimate`), interpolated
        between the ends (`interpolate`), or those of one end (`start`, `end`).
      batch_norm_batches: training batches for the re-estimation, at most one pass over the data (count).
      optimizer: of the curve: `momentum` is SGD with momentum 0.9, as in Garipov et al.
      learning_rate: of the curve, with cosine decay to 0; 0.015 in Garipov et al. for a network without batch norm.
      batch_size: training examples per step of the curve, and per batch of the batch-norm estimation (count); 128 in
        Garipov et al.
      steps: training steps of the curve (step); None takes training.total_steps, since Garipov et al. train curves
        about as long as their ends.
      seed: of the points and batches that train the curve, of the batches of batch-norm estimation, and of the order
        in which matching visits the layers; --seed wins over it.
    """

    i_start: _Coefficient = -0.2
    i_end: _Coefficient = 1.2
    n_interpolation: Annotated[int, Range(at_least=2, at_most=1_000_000)] = 29
    path: Literal["line", "quadratic", "cubic"] = "line"
    masks: Literal["own", "start", "end", "union", "none"] = "own"
    match: bool = False
    batch_norm: Literal["reestimate", "interpolate", "start", "end"] = "reestimate"
    batch_norm_batches: Count = 100
    optimizer: Literal["momentum", "sgd", "adam"] = "momentum"
    learning_rate: Positive = 0.015
    batch_size: BatchSize = 128
    steps: Length | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Checks what no range of one setting expresses.

        Raises:
          SettingError: names the setting and its valid values.
        """
        super().__post_init__()
        self.require(self.i_start < self.i_end, "i_start", "must be below interpolate.i_end")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurfaceSettings(Settings, name="surface"):
    """Grids of the loss: around one solution, on the plane through three, or on the plane of a run's trajectory.

    Attributes:
      points: of the grid along each axis (count); odd around one solution. 51 in Li et al. 2018, four times the work.
      radius: half-width of the grid around one solution; at 1, as in Li et al. 2018, a filter moves by its own norm.
      margin: of the grid beyond three solutions or a trajectory, relative to their extent (fraction).
      seed: of the random directions around one solution and of batch-norm estimation; --seed wins over it.
      space: directions move the `active` weights alone, or `all`, including masked weights. A plane through three
        solutions always lies in the union of their masks.
      others: random directions leave biases and normalisation weights unchanged (`zero`, as Li et al.), or move them,
        each variable scaled as one filter (`scale`).
      ckpt_ids: checkpoints of the trajectory (step); None takes all that exist.
      splits: splits that the loss is computed on.
      examples: the first examples of each split, at most (count); None takes all.
      batch_norm: statistics of batch-norm layers off the solutions: those of the solution at the origin (`keep`), or
        re-estimated at each point (`reestimate`, Garipov et al. 2018). None keeps them around one solution, so that its
        loss is at the centre, and re-estimates them otherwise.
      batch_norm_batches: training batches for the re-estimation, at most one pass over the data (count).
      batch_size: training examples per batch of the re-estimation (count).
    """

    points: Annotated[int, Range(at_least=3, at_most=10_000)] = 25
    radius: Positive = 1.0
    margin: NonNegative = 0.25
    seed: Seed = 0
    space: Literal["active", "all"] = "active"
    others: Literal["zero", "scale"] = "zero"
    ckpt_ids: Sequence[Step] | None = None
    splits: Sequence[str] = ("train", "test")
    examples: Count | None = None
    batch_norm: Literal["keep", "reestimate"] | None = None
    batch_norm_batches: Count = 100
    batch_size: BatchSize = 128

    def __post_init__(self) -> None:
        """Checks the names of splits.

        Raises:
          SettingError: names the setting and its valid values.
        """
        super().__post_init__()
        known = bool(self.splits) and set(self.splits) <= set(SPLITS)
        self.require(known, "splits", f"must name one or more of {', '.join(SPLITS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstabilitySettings(Settings, name="instability"):
    """Copies of a run that continue from a checkpoint with other data orders, and the barrier between their ends.

    Masks and batch norm on the path are those of `interpolate.*`; the path is the line from 0 to 1.

    Attributes:
      steps: checkpoints that copies continue from (step); None takes all that exist.
      data_seeds: one per copy; every pair of copies is compared. Frankle et al. 2020 train three.
      points: of the line between two copies, including both ends (count); 30 in Frankle et al. 2020, section 2.
    """

    steps: Sequence[Step] | None = None
    data_seeds: Sequence[Seed] = (1, 2, 3)
    points: Annotated[int, Range(at_least=2, at_most=1_000_000)] = 30

    def __post_init__(self) -> None:
        """Checks what no range of one setting expresses.

        Raises:
          SettingError: names the setting and its valid values.
        """
        super().__post_init__()
        named = self.steps is None or len(self.steps) > 0
        self.require(named, "steps", "must name checkpoints, or be None for all")
        different = len(set(self.data_seeds)) == len(self.data_seeds) >= 2
        self.require(different, "data_seeds", "must be two or more different seeds")
