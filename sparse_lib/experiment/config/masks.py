"""What `masks.*` and `oneshot.*` configure: random masks and one-shot pruning."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import keras

from sparse_lib import distributions
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.settings import Count, NonNegative, Positive, Settings, Share, Size
from sparse_lib.oneshot import METHODS, OneShot
from sparse_lib.structures import UNSTRUCTURED, Structure, parse

_EXAMPLES = 1000
# Published gin files name the score of one-shot pruning by the updater that has it.
_SCORE_OF_UPDATER = {"rigl_s": "snip", "rigl_grasp": "grasp"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneShotSettings(Settings, name="oneshot"):
    """One-shot pruning, active if training.oneshot_prune_fraction is above 0.

    Attributes:
      method: `snip`, `grasp`, `synflow`, `wanda`, `magnitude` or `random`; None takes what mask_updater.update_alg
        implies.
      scope: `global` (the papers), `layer` (the same sparsity in every layer, as rigl_tf2) or `output` (the same fan-in
        in every unit of a layer, the paper of Wanda).
      rounds: pruning rounds (count); None takes the method's default (100 for SynFlow, else 1).
      temperature: of the logits for GraSP; None takes the method's default.
      examples: training examples that scores are computed from (count); 100 in SNIP's paper. None takes 1000, or
        training.val_batch_size where mask_updater.update_alg implies the method, as in rigl_tf2 (5000 in its files).
    """

    method: Literal["snip", "grasp", "synflow", "wanda", "magnitude", "random"] | None = None
    scope: Literal["global", "layer", "output"] = "global"
    rounds: Size | None = None
    temperature: Positive | None = None
    examples: Count | None = None

    def count_examples(self, val_batch_size: int) -> int:
        """Training examples that scores are computed from.

        Args:
          val_batch_size: from training (count).

        Returns:
          Number of examples (count).
        """
        if self.examples is not None:
            return self.examples
        return val_batch_size if self.method is None else _EXAMPLES

    def build(self, sparsity: float, update_alg: str) -> OneShot:
        """Creates the pruning method.

        Args:
          sparsity: from training.oneshot_prune_fraction (fraction), above 0.
          update_alg: from mask_updater; published gin files imply the score by it.

        Returns:
          The pruning method.

        Raises:
          SettingError: if no method is chosen.
        """
        method = self.method or _SCORE_OF_UPDATER.get(update_alg)
        if method is None:
            raise SettingError(
                f"training.oneshot_prune_fraction={sparsity} needs a score: set oneshot.method to {', '.join(METHODS)}."
            )
        own: dict[str, Any] = {"rounds": self.rounds, "temperature": self.temperature}
        chosen = {name: value for name, value in own.items() if value is not None}
        return METHODS[method](sparsity=sparsity, scope=self.scope, **chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSettings(Settings, name="masks"):
    """Random masks with a distribution of the sparsity over the layers.

    Attributes:
      sparsity: of all sparse kernels together (fraction); None makes them dense.
      distribution: `erk`, `er`, `uniform` or `str`; uniform if the structure fixes the sparsity.
      custom: sparsity by name of a kernel or a layer (fraction); 0 makes it dense.
      power_scale: exponent of the ERK ratio.
      first_layer_dense: whether `uniform` leaves the first kernel dense.
      rounding: of the number of zeros, `floor` (the published code) or `ceil` (its published tables).
      structure: which weights may be active together, at the start and at every update: N:M such as `2:4`, blocks of
        inputs x outputs such as `block:4x4`, `channel`, `constant_fan_in`, or None for any.
    """

    sparsity: Share | None = None
    distribution: Literal["erk", "er", "uniform", "str"] = "erk"
    custom: Mapping[str, Share] | None = None
    power_scale: NonNegative = 1.0
    first_layer_dense: bool = False
    rounding: Literal["floor", "ceil"] = "floor"
    structure: str | None = None

    def __post_init__(self) -> None:
        """Checks the structure, and that custom sparsities come with an overall sparsity.

        Raises:
          SettingError: for an unknown structure, a sparsity that it does not allow, or custom ones without a total.
        """
        super().__post_init__()
        needs = f"needs {self.config_name}.sparsity, that of all kernels"
        self.require(not self.custom or bool(self.sparsity), "custom", needs)
        try:
            self.parsed_structure.check_sparsity(self.sparsity or 0.0)
        except ValueError as error:
            raise SettingError(f"{self.config_name}.structure={self.structure!r}: {error}") from error

    @property
    def parsed_structure(self) -> Structure:
        """The structure that `structure` names."""
        return UNSTRUCTURED if self.structure is None else parse(self.structure)

    def counts(self, kernels: Mapping[str, keras.Variable]) -> dict[str, int]:
        """Number of active weights of each kernel.

        Args:
          kernels: variable by name.

        Returns:
          Active weights by name (count).
        """
        shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
        return distributions.nnz(
            shapes,
            self.sparsity or 0.0,
            distribution=self.distribution if self.parsed_structure.fixed_sparsity is None else "uniform",
            custom=distributions.custom_by_kernel(shapes, self.custom),
            power_scale=self.power_scale,
            first_layer_dense=self.first_layer_dense,
            rounding=self.rounding,
        )
