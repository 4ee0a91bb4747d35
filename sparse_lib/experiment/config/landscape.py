"""What `surface.*` and `instability.*` say: pictures of the loss, and copies of a run."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from sparse_lib.experiment.data import SPLITS
from sparse_lib.experiment.settings import Settings


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
