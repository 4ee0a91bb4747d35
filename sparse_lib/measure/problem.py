"""What is measured: a model with its data, masks and loss."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from sparse_lib import curvature, objective
from sparse_lib._keras import graph_cache, lora, tracing
from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.execution import Execution, Mode, Plan
from sparse_lib.masks import Masks
from sparse_lib.objective import Objective, Scope

Loss: TypeAlias = objective.Loss | None


class Problem:
    """A model with its data, masks and loss, as the measurements take them."""

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        masks: Masks | None,
        loss: Loss,
        batch_size: int,
        execution: Mode | None = None,
    ) -> None:
        self.model, self.masks, self.objective = model, masks, Objective(model, loss)
        check_masks(masks)
        self._execution = None if masks is None else masks.execution
        if masks is not None and execution is not None:
            self._execution = Execution(model, masks, execution)
        if masks is not None:
            lora.warn_of_lora(_adapted_names(model, masks), stacklevel=3)
        self.batches = curvature.Batches.of(data, batch_size)
        self._loss = loss

    def hessian(self) -> curvature.HessianOperator:
        """Hessian of the active weights."""
        subspace, params = curvature.Subspace.active(self.model, self.masks), self.objective.params()
        # The operator that is kept has no data, which would stay in memory with it.
        nothing = curvature.Batches([], 0, 1)
        plan: Plan = ()
        scope: Scope = contextlib.nullcontext
        if self._execution is not None and (plan := self._execution.plan()):
            scope = self._execution.at_masks
        objective = Objective(self.model, self._loss, scope)
        kept = graph_cache.keep(
            self.model,
            f"hessian {id(self.masks)} {plan}" if plan else "hessian",
            self._loss,
            lambda: curvature.HessianOperator(objective, params, nothing, subspace),
        )
        return kept.at(params, batches=self.batches, subspace=subspace)

    def mean(self, kind: str, function: Callable[..., list[tf.Tensor]]) -> DataMean:
        """The mean over the data of a function of the objective, with the graph of earlier calls."""
        bound = functools.partial(function, self.objective)
        return graph_cache.keep(self.model, kind, self._loss, lambda: DataMean(bound, self.model))


def check_masks(masks: Any) -> None:
    """Raises if what a user gives as masks are none."""
    if masks is not None and not isinstance(masks, Masks):
        raise InputError(f"masks= takes the masks from sparsify(model), got {masks!r}.")


def _adapted_names(model: keras.Model, masks: Masks) -> list[str]:
    """Names of the sparse kernels to which LoRA adds a dense matrix."""
    kernels = {id(kernel): name for kernel, name in zip(masks.kernels, masks.names, strict=True)}
    return [kernels[id(k)] for k in lora.adapted_kernels(tracing.all_layers(model)) if id(k) in kernels]
