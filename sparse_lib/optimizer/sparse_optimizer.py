"""SparseOptimizer: a Keras optimizer that wraps a Keras optimizer and keeps its kernels sparse."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.optimizers import (
    batch_counter,
    creation_strategy,
    register_variables,
    restrict_averages,
    skip_gradient_sum,
)
from sparse_lib._utils import distribute
from sparse_lib._utils.errors import InputError
from sparse_lib.execution import Execution
from sparse_lib.masks import Masks
from sparse_lib.optimizer.delegation import check_inner, check_kernels, check_masks_and_updater
from sparse_lib.optimizer.dense_need import find_dense_need
from sparse_lib.optimizer.growth import Growth, GrowthSource
from sparse_lib.optimizer.packed import PackedKernels
from sparse_lib.optimizer.packed_reserves import PackedReserves
from sparse_lib.optimizer.restart import FreshState
from sparse_lib.optimizer.restorable import RestorableOptimizer
from sparse_lib.optimizer.steps import Steps
from sparse_lib.optimizer.supar import SuPar
from sparse_lib.optimizer.tracked import TrackedKernel, build_slots, state_initializer
from sparse_lib.updaters import Static, Updater


@keras.saving.register_keras_serializable("sparse_lib")
class SparseOptimizer(RestorableOptimizer):
    """A Keras optimizer with masks: trains the active weights and changes the masks on schedule.

    `apply` takes dense gradients. An ordinary step masks them, applies the inner optimizer and sets masked weights to
    zero. A mask update gets new masks from the updater, sets dropped weights to zero and resets the slots of weights
    that were dropped or grown; it replaces the optimizer step or follows it (`Updater.replaces_step`). The iteration
    count advances either way, so that a learning-rate schedule keeps its pace.

    Works in `fit`, in a custom loop, under XLA and under `tf.distribute`; gradients are summed over replicas once, and
    all later arithmetic is equal on each replica. Any Keras optimizer can be wrapped; its settings, such as
    `weight_decay`, are read and set here as well as there. The factored second moments of Adafactor belong to rows and
    columns, so they alone are not masked.

    A kernel without a gradient (a frozen layer, or one that the loss does not reach) stays as it is, with its slots,
    its mask and the state of the updater; mask updates leave it out.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8)
      >>> updater = sparse_lib.RigL(frequency=2, end_step=8)
      >>> optimizer = sparse_lib.SparseOptimizer(keras.optimizers.Adam(), masks, updater)
      >>> model.compile(optimizer, "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> masks.check()  # raises if an inactive weight is not 0
      >>> masks.active()
      [40]
    """

    def __init__(
        self,
        inner: keras.optimizers.Optimizer,
        masks: Masks,
        updater: Updater | None = None,
        *,
        growth_gradient: int | Callable[[], Growth] = 1,
        rate_scaling: SuPar | None = None,
        seed: int = 0,
        name: str = "sparse_optimizer",
    ) -> None:
        """Wraps an optimizer.

        Args:
          inner: any built-in Keras optimizer, not yet built.
          masks: from `sparsify`, or `Masks(...)`.
          updater: the method that changes masks; None keeps them as they are.
          growth_gradient: 1 scores growth by the current batch's gradient (RigL, Algorithm 1); k > 1 by the average
            over the k batches up to the update; a callable returns `Growth`, for example from a held-out batch.
          rate_scaling: learning rates of the sparse kernels by their density; None gives all variables the same.
          seed: seed of random growth.
          name: name of the optimizer.

        Raises:
          ValueError: for gradient accumulation or loss scaling in the inner optimizer, or an updater that needs a
            Hessian-gradient product without a function that computes it or cannot keep to the structure of the masks.
        """
        check_inner(inner)
        check_masks_and_updater(masks, updater)
        super().__init__(inner, masks, name)
        self.updater = Static() if updater is None else updater
        self.updater.check_structures(masks.structures)
        self.updater.check_names(masks.names)
        self._growth = GrowthSource(growth_gradient, self.updater)
        self._seed = seed
        self._multipliers = None if rate_scaling is None else rate_scaling.multipliers(masks.names, inner)
        # Gradients are summed over replicas here, once, and clipped as one; the inner optimizer must not sum again.
        skip_gradient_sum(inner)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the inner optimizer's slots and the updater's state, and records which slot belongs to which kernel.

        Args:
          variables: the trainable variables, sparse kernels among them.

        Raises:
          ValueError: if a masked kernel is not among the variables, or lives under another strategy.
        """
        if self.built:
            return
        variables = list(variables)
        check_kernels(self.masks, variables, [creation_strategy(self), creation_strategy(self.inner)])
        # Variables built while a graph is traced must outlive it.
        with tf.init_scope():
            self._slots_by_name = build_slots(self.inner, variables)
            self._fresh = FreshState(self.inner)
            self._kernels = [self._track(index, variables) for index in range(len(self.masks))]
            register_variables(self, variables)
        self._steps = Steps(
            self.inner, variables, self.updater, list(self._kernels), self._growth, self._seed, self._multipliers
        )
        if self.masks.execution is not None:
            self.lead(self.masks.execution)

    def _track(self, index: int, variables: list[keras.Variable]) -> TrackedKernel:
        kernel, initial = self.masks.kernels[index], self.masks.initial[index]
        mask, explored = self.masks.variables_by_kernel[index], self.masks.explored[index]
        position = next(i for i, v in enumerate(variables) if v is kernel)
        of_kernel = [slots[position] for slots in self._slots_by_name.values()]

        def state(spec: str) -> keras.Variable:
            start = state_initializer(spec, initial, mask.numpy())
            return self.add_variable_from_reference(kernel, name=spec, initializer=start)

        return TrackedKernel(
            kernel,
            mask,
            explored,
            slots=[slot for slot in of_kernel if slot is not None],
            average=self._slots_by_name.get("average", {position: None})[position],
            state={spec: state(spec) for spec in self.updater.state_specs},
            growth=state("growth") if self._growth.batches > 1 else None,
            position=position,
            structure=self.masks.structures[index],
            initial=initial,
            title=self.masks.names[index],
        )

    @property
    def slots_by_name(self) -> dict[str, list[keras.Variable | None]]:
        """The inner optimizer's slots by name, such as `momentum`: one slot or None per trainable variable."""
        return self._slots_by_name

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Takes one step: an optimizer step, a mask update, or both, by the schedule of the updater.

        Args:
          grads: dense gradients, one per trainable variable.
          trainable_variables: the variables of the gradients; None means those of `build`.
        """
        reduced = self.reduce(grads, trainable_variables)
        distribute.merge(self._steps.apply, reduced)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, keras.Variable]]) -> keras.Variable:
        """Takes one step, like `apply`.

        Args:
          grads_and_vars: pairs of dense gradient and trainable variable.

        Returns:
          The number of steps taken (step).
        """
        super().apply_gradients(grads_and_vars)
        return self.iterations

    def train_step(self, reduced: Sequence[tf.Tensor | None]) -> None:
        """Takes an optimizer step without a mask update, from replica context.

        Args:
          reduced: gradients from `reduce`.
        """
        distribute.merge(self._steps.train, list(reduced))

    def mask_step(self, reduced: Sequence[tf.Tensor | None]) -> None:
        """Takes a mask update alone, from replica context; the iteration count advances if it replaces a step.

        Args:
          reduced: gradients from `reduce`.
        """
        distribute.merge(self._steps.update, list(reduced))

    def find_dense_need(self) -> str:
        """Says why steps need more than the weights that train; empty where these suffice.

        An example is `SNFS uses gradients of inactive weights at every step`.
        """
        return find_dense_need(self.updater, self.inner, self._growth)

    def lead(self, execution: Execution, *, xla: bool = False) -> None:
        """Tells an execution which weights train, and whether steps need dense products.

        Args:
          execution: of the model.
          xla: whether XLA compiles dense steps.
        """
        self._check_built("optimizer.lead")
        reason = self.find_dense_need()
        if xla and execution.mode == "auto" and self.updater.changes_every_step:
            # A step of Top-KAST in an MLP, mostly selection, would take 1.6 times as long.
            reason = reason or "masks change at every step, which is faster where XLA compiles it"
        execution.follow(reason, lambda index: self._kernels[index].trained_mask())

    @contextmanager
    def execute(self) -> Iterator[None]:
        """Executes layers sparsely in a training step: forward pass and gradients belong inside of the context.

        The gradients are those that `apply` needs: dense at mask updates where the method grows by them, and zero off
        the masks else. Without `execution` in `sparsify` nothing changes.

        Examples:
          >>> import keras
          >>> import tensorflow as tf
          >>> import sparse_lib
          >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
          >>> masks = sparse_lib.sparsify(model, 0.9, execution="auto")
          >>> optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks)
          >>> with optimizer.execute(), tf.GradientTape() as tape:
          ...     loss = tf.reduce_mean(model(tf.eye(20)) ** 2)
          >>> optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
          >>> masks.check()
        """
        # A reserve is not known before the optimizer is built.
        execution, has_reserve = self.masks.execution, self.updater.has_reserve
        if execution is None or self.find_dense_need() or (has_reserve and not self.built):
            yield
            return
        changes = has_reserve or self.updater.changes_density
        with execution.at_masks(dense_gradients=self._needs_dense_gradients(), changes_density=changes):
            yield

    def _needs_dense_gradients(self) -> tf.Tensor | bool:
        """Whether the masks change at this step by dense gradients."""
        schedule = self.updater.schedule
        if schedule.never or self.updater.weight_gradient in ("sparse", "backward_set"):
            return False
        return schedule.is_update_step(tf.convert_to_tensor(batch_counter(self.inner).value))

    def pack(self, positions: Sequence[int]) -> PackedKernels:
        """Makes vectors for the active weights and slots of some kernels.

        Args:
          positions: of the kernels among the masks.

        Returns:
          The vectors, empty.

        Raises:
          ValueError: if the optimizer is not built.
        """
        self._check_built("optimizer.pack")
        kernels = [self._kernels[position] for position in positions]
        return PackedReserves(kernels) if self.updater.has_reserve else PackedKernels(kernels)

    def train_packed(self, packed: PackedKernels, grads: Sequence[tf.Tensor | None]) -> None:
        """Takes an optimizer step without a mask update, on one replica.

        Args:
          packed: from `pack`.
          grads: of the variables of `build`; those of packed kernels are vectors.
        """
        self._steps.train_packed(packed, list(grads))

    def reduce(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> list[tf.Tensor | None]:
        """Sums dense gradients over replicas, from replica context; builds the optimizer if need be.

        Args:
          grads: dense gradients, one per trainable variable; None for a variable that the loss does not depend on.
          trainable_variables: the variables of the gradients; None means those of `build`.

        Returns:
          One tensor per variable of `build`; None for a variable without a gradient.

        Raises:
          ValueError: if gradients and variables do not match, or outside of replica context.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1 and tf.distribute.in_cross_replica_context():
            raise InputError("Gradients are per replica: call the optimizer inside strategy.run(...).")
        if not self.built:
            if trainable_variables is None or replicas > 1:
                raise InputError("Call optimizer.build(model.trainable_variables) before the first step.")
            self.build(trainable_variables)
        aligned = self._align_gradients(list(grads), trainable_variables)
        # The gradient of an einsum over a batch of unknown size has no static shape, and selecting weights needs one.
        shaped = [
            None if g is None else tf.ensure_shape(g, v.shape)
            for g, v in zip(aligned, self._trainable_variables, strict=True)
        ]
        return distribute.sum_over_replicas(shaped)

    def _align_gradients(self, grads: list[Any], variables: Sequence[keras.Variable] | None) -> list[Any]:
        """Sorts gradients into the order of `build`, with None for variables that are not given."""
        known = self._trainable_variables
        variables = known if variables is None else list(variables)
        if len(grads) != len(variables):
            raise InputError(f"Got {len(grads)} gradients for {len(variables)} variables; give one for each.")
        if all(g is None for g in grads):
            raise InputError("No variable has a gradient; compute the loss from the model's outputs inside the tape.")
        without = [v.path for v, g in zip(variables, grads, strict=True) if g is None]
        if without:
            warnings.warn(f"Gradients do not exist for variables {without}; they stay as they are.", stacklevel=2)
        given = {self._var_key(v): g for v, g in zip(variables, grads, strict=True)}
        unknown = [v.path for v in variables if self._var_key(v) not in self._trainable_variables_indices]
        if unknown:
            raise InputError(
                f"The optimizer was built without {', '.join(unknown)}; make a new one for the new set of variables."
            )
        return [given.get(self._var_key(v)) for v in known]

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Lets the inner optimizer write its averages (EMA) into the weights, then masks them.

        Args:
          var_list: the model's trainable variables.
        """
        given = {self._var_key(v) for v in var_list}
        positions = [i for i, v in enumerate(self._trainable_variables) if self._var_key(v) in given]
        # Keras pairs averages and variables by order, which frozen layers shift.
        if positions:
            with restrict_averages(self.inner, positions):
                self.inner.finalize_variable_values([self._trainable_variables[i] for i in positions])
        self.masks.project()
