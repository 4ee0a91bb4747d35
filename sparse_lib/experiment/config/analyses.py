"""What `hessian.*`, `interpolate.*`, `surface.*` and `instability.*` configure: the analyses of finished runs."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from sparse_lib.experiment.data import SPLITS
from sparse_lib.experiment.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class HessianSettings(Settings, name="hessian"):
    """Spectra of the curvature at checkpoints of a run, in the space of its active weights and biases.

    Attributes:
      ckpt_ids: steps of the checkpoints; a negative one lies beside a mask update (step). None takes all that exist.
      overwrite: whether to compute again what is there.
      batch_size: training examples that the loss is averaged over, the same for every checkpoint (count); the
        gradient-flow paper takes all 60,000 of MNIST.
      rows_at_once: rows of the Hessian that are computed and stored together (count).
      is_dense_spectrum: whether the eigenvalue 0 of every masked weight is listed as well.
      space: `active` weights and biases, or `all`, masked weights included, which then move.
      layers: pattern of layers or variables, such as `conv*` or `conv1/kernel`, whose block of the matrix to take; None
        takes all.
      operator: the matrix: the Hessian, its Gauss-Newton part, or the Fisher information of the model's own labels
        (`fisher`) or of the data's (`empirical_fisher`).
      method: `exact` forms the matrix; `lanczos` estimates extreme eigenvalues, density and trace from products with
        it; `auto` is exact up to `max_exact` parameters.
      max_exact: parameters of the largest matrix that is formed (count).
      dtype: of the arithmetic of derivatives; eigenvalues are always found in float64.
      examples_at_once: examples of one pass (count), which bounds the memory; None takes 1,000, or as many as
        have 400,000 pixels: 510 images of MNIST, 130 of CIFAR.
      n_eigenvalues: eigenvalues at each end, for `lanczos`, and eigenvectors the gradient is compared with (count).
      precision: standard error at which the estimate of the trace stops, relative to it (fraction).
      max_probes: random vectors of an estimate at most (count).
      lanczos_steps: steps of each probe of the density (count); 80 find the ten largest to float32 precision.
      seed: of probes and starting vectors.
      folder: of the results, inside the run's directory.
    """

    ckpt_ids: Sequence[int] | None = None
    overwrite: bool = False
    batch_size: int = 1000
    rows_at_once: int = 10
    is_dense_spectrum: bool = False
    space: Literal["active", "all"] = "active"
    layers: str | None = None
    operator: Literal["hessian", "gauss_newton", "fisher", "empirical_fisher"] = "hessian"
    method: Literal["auto", "exact", "lanczos"] = "auto"
    max_exact: int = 12_000
    dtype: Literal["float64", "float32"] = "float64"
    examples_at_once: int | None = None
    n_eigenvalues: int = 10
    precision: float = 0.05
    max_probes: int = 30
    lanczos_steps: int = 80
    seed: int = 0
    folder: str = "hessian"

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          SettingError: names the setting and what it may be.
        """
        super().__post_init__()
        counts = ["batch_size", "rows_at_once", "max_exact", "n_eigenvalues", "lanczos_steps"]
        if self.examples_at_once is not None:
            counts.append("examples_at_once")
        for name in counts:
            self.require(getattr(self, name) >= 1, name, "must be at least 1")
        self.require(self.max_probes >= 2, "max_probes", "must be at least 2, or no error bar can be told")
        self.require(self.precision > 0, "precision", "must be above 0")
        plain = self.folder not in ("", ".", "..") and "/" not in self.folder
        self.require(plain, "folder", "must be the name of a folder, such as 'hessian'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolateSettings(Settings, name="interpolate"):
    """The path between two checkpoints, and where on it loss and accuracy are computed.

    Attributes:
      i_start: smallest coefficient; -0.2 in the gradient-flow paper (figure 5), which looks beyond both ends.
      i_end: largest coefficient; 1.2 in the paper.
      n_interpolation: points, both of these among them (count); 29 in the paper, 0.05 apart. The ends of the path, 0
        and 1, are added where they are missing.
      path: the straight `line`, or a Bezier curve, `quadratic` or `cubic`, whose inner control points are trained to
        keep the loss low (Garipov et al. 2018; RigL paper, figure 6).
      masks: `own` puts each end under its own mask, `start` or `end` both under one, `union` both under the union,
        `none` neither. A curve stays in the subspace of that mask (of the union for `own`, of all weights for `none`).
      match: whether the hidden units of the end are permuted first, masks and statistics along, so that it lies as
        close to the start as weight matching finds (Ainsworth et al. 2022); for networks whose layers form a chain.
      batch_norm: statistics of batch-norm layers on the path: estimated again at each point (`reestimate`), on the line
        between those of the ends (`interpolate`), or those of one end (`start`, `end`).
      batch_norm_batches: training batches that they are estimated from, at most one pass over the data (count).
      optimizer: of the curve: `momentum` is SGD with momentum 0.9, as in Garipov et al.
      learning_rate: of the curve, with cosine decay to 0; 0.015 is what Garipov et al. take for their network without
        batch norm.
      batch_size: training examples of a step of the curve, and of a batch of batch-norm estimation (count); 128 in
        Garipov et al.
      steps: of the training of the curve (step); None takes training.total_steps, since Garipov et al. train curves
        about as long as their ends.
      seed: of the curve's places and batches, of the batches of batch-norm estimation, and of the order in which
        matching goes through the layers; --seed wins over it.
    """

    i_start: float = -0.2
    i_end: float = 1.2
    n_interpolation: int = 29
    path: Literal["line", "quadratic", "cubic"] = "line"
    masks: Literal["own", "start", "end", "union", "none"] = "own"
    match: bool = False
    batch_norm: Literal["reestimate", "interpolate", "start", "end"] = "reestimate"
    batch_norm_batches: int = 100
    optimizer: Literal["momentum", "sgd", "adam"] = "momentum"
    learning_rate: float = 0.015
    batch_size: int = 128
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          SettingError: names the setting and what it may be.
        """
        super().__post_init__()
        self.require(self.n_interpolation >= 2, "n_interpolation", "must be at least 2")
        self.require(self.i_start < self.i_end, "i_start", "must be below interpolate.i_end")
        for name in ("batch_norm_batches", "batch_size"):
            self.require(getattr(self, name) >= 1, name, "must be at least 1")
        self.require(
            self.steps is None or self.steps >= 1, "steps", "must be at least 1, or None for the length of a run"
        )
        self.require(self.learning_rate > 0, "learning_rate", "must be above 0")
        self.require(self.seed >= 0, "seed", "must be at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurfaceSettings(Settings, name="surface"):
    """Grids of the loss: around one solution, on the plane through three, or on the plane that a run moves in.

    Attributes:
      points: of the grid along each axis (count); odd around one solution. 51 in Li et al. 2018, four times the work.
      radius: how far the grid reaches around one solution; at 1, as in Li et al. 2018, a filter moves by its own norm.
      margin: how far the grid reaches beyond three solutions or a run, as a share of their extent (fraction).
      seed: of the random directions around one solution and of batch-norm estimation; --seed wins over it.
      space: directions move the `active` weights alone, or `all`, masked weights included. A plane through three
        solutions lies in the union of their masks whatever this says.
      others: random directions leave biases and normalisation weights as they are (`zero`, as Li et al.), or move them,
        each variable scaled as one filter (`scale`).
      ckpt_ids: checkpoints of the run whose way is drawn (step); None takes all that exist.
      splits: of the data that the loss is computed on.
      examples: at most so many of each split, its first ones (count); None takes all.
      batch_norm: statistics of batch-norm layers off the solutions: those of the solution at the origin (`keep`), or
        estimated again at each point (`reestimate`, Garipov et al. 2018). None keeps them around one solution, whose
        loss then is at the centre, and estimates them elsewhere.
      batch_norm_batches: training batches that they are estimated from, at most one pass over the data (count).
      batch_size: training examples of such a batch (count).
    """

    points: int = 25
    radius: float = 1.0
    margin: float = 0.25
    seed: int = 0
    space: Literal["active", "all"] = "active"
    others: Literal["zero", "scale"] = "zero"
    ckpt_ids: Sequence[int] | None = None
    splits: Sequence[str] = ("train", "test")
    examples: int | None = None
    batch_norm: Literal["keep", "reestimate"] | None = None
    batch_norm_batches: int = 100
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Checks the numbers and names.

        Raises:
          SettingError: names the setting and what it may be.
        """
        super().__post_init__()
        self.require(self.points >= 3, "points", "must be at least 3")
        self.require(self.radius > 0, "radius", "must be above 0")
        self.require(self.margin >= 0, "margin", "must be at least 0")
        self.require(self.seed >= 0, "seed", "must be at least 0")
        known = bool(self.splits) and set(self.splits) <= set(SPLITS)
        self.require(known, "splits", f"must name one or more of {', '.join(SPLITS)}")
        self.require(self.examples is None or self.examples >= 1, "examples", "must be at least 1, or None for all")
        for name in ("batch_norm_batches", "batch_size"):
            self.require(getattr(self, name) >= 1, name, "must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstabilitySettings(Settings, name="instability"):
    """Copies of a run that go on from a checkpoint with other data orders, and the barrier between their ends.

    How the ends are connected, masks and batch norm, is what `interpolate.*` says; the path is the line from 0 to 1.

    Attributes:
      steps: checkpoints that copies go on from (step); None takes all that exist.
      data_seeds: one copy each; every pair of them is compared. Frankle et al. 2020 train three.
      points: of the line between two copies, both ends among them (count); 30 in Frankle et al. 2020, section 2.
    """

    steps: Sequence[int] | None = None
    data_seeds: Sequence[int] = (1, 2, 3)
    points: int = 30

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          SettingError: names the setting and what it may be.
        """
        super().__post_init__()
        named = self.steps is None or (len(self.steps) > 0 and min(self.steps) >= 0)
        self.require(named, "steps", "must name checkpoints, or be None for all")
        different = len(set(self.data_seeds)) == len(self.data_seeds) >= 2
        self.require(different and min(self.data_seeds) >= 0, "data_seeds", "must be two or more different seeds")
        self.require(self.points >= 2, "points", "must be at least 2")
