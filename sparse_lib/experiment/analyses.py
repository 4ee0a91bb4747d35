"""What `hessian.*` and `interpolate.*` say: the analyses of finished runs."""

import dataclasses
from collections.abc import Sequence

from sparse_lib.experiment.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class HessianSettings(Settings, name="hessian"):
    """Spectra of the Hessian at checkpoints of a run, in the space of its active weights and biases.

    Attributes:
      ckpt_ids: steps of the checkpoints; a negative one lies beside a mask update (step). None takes the last one.
      overwrite: whether to compute again what is there.
      batch_size: training examples that the loss is averaged over, the same for every checkpoint (count).
      rows_at_once: rows of the Hessian that are computed together (count).
      is_dense_spectrum: whether masked weights count as well, as rows and columns of zeros.
    """

    ckpt_ids: Sequence[int] | None = None
    overwrite: bool = False
    batch_size: int = 1000
    rows_at_once: int = 10
    is_dense_spectrum: bool = False

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          SettingError: names the setting and what it may be.
        """
        super().__post_init__()
        self.require(self.batch_size >= 1, "batch_size", "must be at least 1")
        self.require(self.rows_at_once >= 1, "rows_at_once", "must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterpolateSettings(Settings, name="interpolate"):
    """Points on the line (1 - a) start + a end between two checkpoints.

    Attributes:
      i_start: smallest a; -0.2 in the gradient-flow paper, which looks beyond both ends.
      i_end: largest a; 1.2 in the paper.
      n_interpolation: points, both ends among them (count); 29 in the paper, 0.05 apart.
    """

    i_start: float = -0.2
    i_end: float = 1.2
    n_interpolation: int = 29

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          SettingError: names the setting and what it may be.
        """
        super().__post_init__()
        self.require(self.n_interpolation >= 2, "n_interpolation", "must be at least 2")
        self.require(self.i_start < self.i_end, "i_start", "must be below interpolate.i_end")
