"""What every method of one-shot pruning shares: ranking, rounds and checks.

A method is a frozen dataclass that overrides one hook, `OneShot.scorer`. Nothing here changes the model. Batch norm
uses its moving averages and dropout is off, so that examples do not affect each other: in a new model batch norm is
the identity.
"""

import abc
import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf

from sparse_lib import distributions, selection
from sparse_lib._utils.did_you_mean import closest_names
from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.kernels import kernel_structures
from sparse_lib.objective import Objective
from sparse_lib.oneshot.scores import Batch, Tensors
from sparse_lib.structures import UNSTRUCTURED, ConstantFanIn, Structure, Unstructured, select_globally

Scorer = Callable[[list[tf.Tensor]], list[tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """The inputs of a scoring method.

    Attributes:
      objective: the model and its loss.
      kernels: positions of the kernels to prune in `objective.model.trainable_variables`.
      batches: examples in any form that `Batches.of` takes, or None.
      seed: seed of random scores.
    """

    objective: Objective
    kernels: Sequence[int]
    batches: Any
    seed: int

    def data(self) -> list[Batch]:
        """Converts all batches to tensors, for methods that need data.

        Raises:
          ValueError: if there are none, or they are not pairs.
        """
        if self.batches is None:
            raise InputError("This method scores weights with data: give it batches of (x, y), or (x, y).")
        if isinstance(self.batches, Batches | tf.data.Dataset | tuple | keras.utils.PyDataset):
            return list(Batches.of(self.batches))
        batches = list(self.batches)
        if any(not isinstance(batch, tuple | list) or len(batch) != 2 for batch in batches):
            raise InputError("Batches are pairs: give [(x, y)] for a single batch.")
        return [tf.nest.map_structure(tf.convert_to_tensor, tuple(batch)) for batch in batches]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneShot(abc.ABC):
    """Keeps the weights with the highest scores; the base of every method.

    Attributes:
      needs_data: whether the scores depend on examples.
      sparsity: share of the kernels' weights to remove (fraction, 0 to below 1).
      scope: "global" ranks the weights of all kernels together, as in all of the papers; "layer" ranks each kernel by
        itself, as in the code of RigL; "output" ranks the weights of each output unit by themselves, so that all have
        the same fan-in (Sun et al. 2024). A structure other than single weights makes "output" the same as "layer".
      layer_sparsities: sparsities of single kernels by name, such as from `distributions.sparsities`. In scope "global"
        these kernels are ranked by themselves, and `sparsity` is that of all others together.
      min_per_layer: minimum number of weights per kernel (count); 0 in the papers.
      rounds: rounds of scoring and removal (count); round r of n keeps the share density^(r/n) (Tanaka et al. 2020,
        Algorithm 1).
    """

    needs_data: ClassVar[bool] = False

    sparsity: float
    scope: Literal["global", "layer", "output"] = "global"
    layer_sparsities: Mapping[str, float] | None = None
    min_per_layer: int = 0
    rounds: int = 1

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
          ValueError: for a setting out of range.
        """
        for value in (self.sparsity, *(self.layer_sparsities or {}).values()):
            if not 0 <= value < 1:
                raise InputError(f"A sparsity is {value}: give a fraction of zeros in [0, 1).")
        if self.scope not in ("global", "layer", "output"):
            raise InputError(f"Unknown scope {self.scope!r}: use 'global', 'layer' or 'output'.")
        if self.min_per_layer < 0 or self.rounds < 1:
            raise InputError(
                f"Got min_per_layer={self.min_per_layer} and rounds={self.rounds}: give at least 0 "
                "weights and at least 1 round."
            )

    @abc.abstractmethod
    def scorer(self, problem: Problem) -> Scorer:
        """Builds the scoring function; parts that run for every batch or round are compiled once.

        Args:
          problem: model, kernels, data and seed.

        Returns:
          A function from the values of all trainable variables, with removed weights at zero, to one tensor of scores
          per kernel; the highest are kept.
        """

    def masks(
        self,
        objective: Objective,
        kernels: Mapping[str, keras.Variable],
        batches: Any = None,
        *,
        structures: Sequence[Structure] | None = None,
        seed: int = 0,
    ) -> list[tf.Tensor]:
        """Scores the weights and selects those to keep.

        Keeps n - floor(sparsity * n) of n weights: of all weights in global scope, of each kernel in layer scope, of
        each output in output scope. Ties go to the earlier weight. Structures count units such as blocks, with the mean
        score of their weights.

        Args:
          objective: the model, scored at its current weights, and its loss.
          kernels: the kernels to prune by name, as from `api.sparse_kernels`.
          batches: a tuple (x, y) of arrays, a `tf.data.Dataset` of batches, or other batches, split in any way; None
            for methods that need no data.
          structures: structure of the masks, one per kernel; None means single weights.
          seed: seed of random scores.

        Returns:
          One boolean tensor per kernel, in the order of `kernels`.

        Raises:
          ValueError: if a kernel is not a trainable variable of the model, a layer sparsity has no
            kernel, `min_per_layer` exceeds the density, a structure cannot have the sparsity, data
            are missing, or the scores are not finite or all zero.

        Warns:
          UserWarning: if a kernel keeps no weight (layer collapse).

        Examples:
          >>> import keras
          >>> import tensorflow as tf
          >>> from sparse_lib.objective import Objective
          >>> from sparse_lib.oneshot import SNIP
          >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
          >>> model.set_weights([tf.constant([[1.0, -2.0], [3.0, 4.0]])])
          >>> kernels = {"dense": model.layers[0].kernel}
          >>> batches = [(tf.constant([[1.0, 0.0]]), tf.constant([0]))]  # only the first input is ever active
          >>> SNIP(sparsity=0.5).masks(Objective(model), kernels, batches)[0].numpy().tolist()
          [[True, True], [False, False]]
        """
        if not isinstance(objective, Objective) or not isinstance(kernels, Mapping):
            raise InputError(
                "Masks are of an Objective and kernels by name, as in masks(Objective(model), sparse_kernels(model)); "
                f"got {type(objective).__name__} and {type(kernels).__name__}."
            )
        positions = _positions(objective.model, kernels)
        shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
        rules = [UNSTRUCTURED] * len(kernels) if structures is None else list(structures)
        if self.scope == "output":
            by_output = kernel_structures(objective.model, kernels.values(), ConstantFanIn())
            rules = [b if isinstance(r, Unstructured) else r for r, b in zip(rules, by_output, strict=True)]
        groups, sizes, kept = self._groups(shapes, rules)
        scorer = self.scorer(Problem(objective, positions, batches, seed))
        params = objective.params()
        masks = [tf.ones(shape, tf.bool) for shape in shapes.values()]
        select = tf.function(lambda *args: self._select(groups, rules, *args))
        for done in range(1, self.rounds + 1):
            pruned = list(params)
            for i, mask in zip(positions, masks, strict=True):
                pruned[i] = selection.on_mask(mask, params[i])
            found = scorer(pruned)
            self._check(found, list(kernels))
            counts = [max(k, round(n * (k / n) ** (done / self.rounds))) for n, k in zip(sizes, kept, strict=True)]
            masks = select(found, masks, tf.constant(counts))
        _warn_of_collapse(masks, list(kernels))
        return masks

    def _groups(
        self, shapes: Mapping[str, tuple[int, ...]], structures: Sequence[Structure]
    ) -> tuple[list[list[int]], list[int], list[int]]:
        """Groups of kernels ranked together, by position, with the number of units and of kept units of each group."""
        custom = self.layer_sparsities or {}
        unknown = sorted(set(custom) - set(shapes))
        if unknown:
            raise InputError(f"Layer sparsities name {unknown}; the kernels are {closest_names(unknown[0], shapes)}.")
        each = [structure.size(shape) for structure, shape in zip(structures, shapes.values(), strict=True)]
        alone = [i for i, name in enumerate(shapes) if self.scope != "global" or name in custom]
        together = [i for i in range(len(each)) if i not in alone]
        groups = [[i] for i in alone] + ([together] if together else [])
        names = list(shapes)
        sparsities = [custom.get(names[i], self.sparsity) for i in alone] + [self.sparsity] * bool(together)
        for structure in structures:
            for sparsity in sparsities:
                structure.check_sparsity(sparsity)
        sizes = [sum(each[i] for i in group) for group in groups]
        parts = [self._count_parts(structures[group[0]], shapes[names[group[0]]]) for group in groups]
        kept = [
            part * (n // part - distributions.n_zeros(n // part, s))
            for n, s, part in zip(sizes, sparsities, parts, strict=True)
        ]
        for group, count in zip(groups, kept, strict=True):
            least = sum(min(each[i], self.min_per_layer) for i in group)
            if least > count:
                raise InputError(
                    f"min_per_layer={self.min_per_layer} asks for {least} weights and the sparsity "
                    f"leaves {count}: lower one of the two."
                )
        return groups, sizes, kept

    def _count_parts(self, structure: Structure, shape: tuple[int, ...]) -> int:
        """Number of equal parts of a group that keep the same number of weights: its outputs in output scope."""
        if self.scope != "output" or not isinstance(structure, ConstantFanIn):
            return 1
        return math.prod(shape[axis] for axis in structure.outputs)

    def _select(
        self,
        groups: list[list[int]],
        structures: Sequence[Structure],
        found: Tensors,
        masks: Tensors,
        counts: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Selects the highest scores of each group among active units."""
        if self.min_per_layer:
            # The minimum of every kernel outranks all other weights.
            found = [
                tf.where(
                    selection.top_k_mask(score, self.min_per_layer, mask),
                    tf.cast(math.inf, score.dtype),
                    score,
                )
                for score, mask in zip(found, masks, strict=True)
            ]
        chosen = list(masks)
        for group, count in zip(groups, tf.unstack(counts), strict=True):
            ranked, among = [found[i] for i in group], [masks[i] for i in group]
            best = select_globally([structures[i] for i in group], ranked, count, among)
            for i, mask in zip(group, best, strict=True):
                chosen[i] = mask
        return chosen

    def _check(self, found: Tensors, names: Sequence[str]) -> None:
        """Raises if the scores cannot be ranked."""
        method = type(self).__name__
        for name, score in zip(names, found, strict=True):
            if not tf.reduce_all(tf.math.is_finite(score)):
                raise InputError(
                    f"{method} scores of {name} are not finite: check weights and data for NaN and "
                    "for values that overflow."
                )
        if not any(tf.reduce_any(score != 0) for score in found):
            raise InputError(
                f"All {method} scores are zero, no signal passes the network: start from larger "
                "weights, and let the model return logits, not probabilities."
            )


def _positions(model: keras.Model, kernels: Mapping[str, keras.Variable]) -> list[int]:
    """Positions of the kernels among the model's trainable variables."""
    places = {id(v): i for i, v in enumerate(model.trainable_variables)}
    missing = [name for name, kernel in kernels.items() if id(kernel) not in places]
    if missing or not kernels:
        raise InputError(
            f"{missing or 'No kernels'} cannot be pruned: give trainable variables of model {model.name!r}."
        )
    return [places[id(kernel)] for kernel in kernels.values()]


def _warn_of_collapse(masks: Tensors, names: Sequence[str]) -> None:
    """Warns of kernels without active weights."""
    empty = [n for n, m in zip(names, masks, strict=True) if not tf.reduce_any(m)]
    if empty:
        warnings.warn(
            f"Layer collapse: {', '.join(empty)} keep no weight, so no signal passes them: lower the "
            "sparsity, set min_per_layer, or use SynFlow.",
            stacklevel=3,
        )
