"""SparseOptimizer: a Keras optimizer that wraps a Keras optimizer and keeps its kernels sparse."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.optimizers import creation_strategy, skip_gradient_sum
from sparse_lib._utils import distribute
from sparse_lib._utils.errors import InputError
from sparse_lib.masks import Masks
from sparse_lib.optimizer.growth import Growth, GrowthSource
from sparse_lib.optimizer.steps import Steps
from sparse_lib.optimizer.tracked import TrackedKernel, state_initializer
from sparse_lib.updaters import Static, Updater


@keras.saving.register_keras_serializable("sparse_lib")
class SparseOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer with masks: trains the active weights and changes the masks on schedule.

    `apply` takes dense gradients. An ordinary step masks them, applies the inner optimizer and sets masked weights to
    zero. A mask update gets new masks from the updater, sets dropped weights to zero and resets the slots of weights
    that were dropped or grown; it replaces the optimizer step or follows it (`Updater.replaces_step`). The iteration
    count advances either way, so that a learning-rate schedule keeps its pace.

    Works in `fit`, in a custom loop, under XLA and under `tf.distribute`; gradients are summed over replicas once, and
    all later arithmetic is equal on each replica. Any Keras optimizer can be wrapped. The factored second moments of
    Adafactor belong to rows and columns, so they alone are not masked.

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
          seed: seed of random growth.
          name: name of the optimizer.

        Raises:
          ValueError: for gradient accumulation or loss scaling in the inner optimizer, or an updater that needs a
            Hessian-gradient product without a function that computes it or cannot keep to the structure of the masks.
        """
        super().__init__(learning_rate=0.0, name=name)
        self.updater = Static() if updater is None else updater
        self.updater.check_structures(masks.structures)
        _check_inner(inner)
        self.inner = inner
        self.masks = masks
        self._growth = GrowthSource(growth_gradient, self.updater)
        self._seed = seed
        self._tracked: list[TrackedKernel] = []
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
        self._check_kernels(variables)
        # Variables built while a graph is traced must outlive it.
        with tf.init_scope():
            self._slots_by_name = self._build_inner(variables)
            self._tracked = [self._track(index, variables) for index in range(len(self.masks))]
            super().build(variables)
        self._steps = Steps(
            self.inner, variables, self.masks, self.updater, list(self._tracked), self._growth, self._seed
        )

    def _check_kernels(self, variables: list[keras.Variable]) -> None:
        trainable = {id(v) for v in variables}
        missing = [n for n, k in zip(self.masks.names, self.masks.kernels, strict=True) if id(k) not in trainable]
        if missing:
            raise InputError(
                f"The masked kernels {', '.join(missing)} are not among the trainable variables; build the masks "
                "from the model that is trained, and leave frozen layers out of them."
            )
        owners = [distribute.owner(kernel.value) for kernel in self.masks.kernels]
        mine = (creation_strategy(self), creation_strategy(self.inner))
        if any(owner is not None and owner is not strategy for owner in owners for strategy in mine):
            raise InputError(
                "The model lives under another tf.distribute strategy than its optimizer; create the model and both "
                "optimizers inside the same `with strategy.scope():`."
            )

    def _build_inner(self, variables: list[keras.Variable]) -> dict[str, list[keras.Variable | None]]:
        """Builds the inner optimizer; returns, for each name of a slot, one slot or None per variable."""
        positions = {id(v): i for i, v in enumerate(variables)}
        slots: dict[str, list[keras.Variable | None]] = {}
        add = self.inner.add_variable_from_reference

        def add_and_record(reference_variable: Any, name: str = "slot", **kwargs: Any) -> keras.Variable:
            slot = add(reference_variable, name=name, **kwargs)
            slots.setdefault(name, [None] * len(variables))[positions[id(reference_variable)]] = slot
            return slot

        self.inner.add_variable_from_reference = add_and_record
        self.inner.build(variables)
        del self.inner.add_variable_from_reference
        return slots

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
            state={spec: state(spec) for spec in self.updater.state_specs},
            growth=state("growth") if self._growth.batches > 1 else None,
            position=position,
            structure=self.masks.structures[index],
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """The inner optimizer's variables and the updater's state."""
        own = [v for tracked in self._tracked for v in [*tracked.state.values(), tracked.growth] if v is not None]
        return self.inner.variables + own

    @property
    def iterations(self) -> keras.Variable:
        """Number of steps taken, mask updates included (step)."""
        return self.inner.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner.learning_rate = value

    @property
    def loss_scale_factor(self) -> float:
        """1: losses are not scaled here."""
        return 1.0

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: float | None) -> None:
        # Keras' constructor sets it, and a LossScaleOptimizer sets it to None in the optimizer that it wraps, unless it
        # is None already.
        del value
        if hasattr(self, "inner") and self._distribution_strategy.num_replicas_in_sync > 1:
            raise InputError(
                "Loss scaling (float16) looks at the gradients of the first replica alone, so that an overflow of "
                "another one would reach the weights: use mixed_bfloat16, or pass auto_scale_loss=False to compile."
            )

    @property
    def slots(self) -> list[list[keras.Variable]]:
        """The inner optimizer's slots of each sparse kernel, in the order of the masks."""
        return [list(tracked.slots) for tracked in self._tracked]

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

    def reduce(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> list[tf.Tensor | None]:
        """Sums dense gradients over replicas, from replica context; builds the optimizer if need be.

        Args:
          grads: dense gradients, one per trainable variable; None for a variable that the loss does not depend on.
          trainable_variables: the variables of the gradients; None means those of `build`.

        Returns:
          One tensor per variable of `build`; None stays None, except for sparse kernels, where it means zero.

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
        for tracked in self._tracked:
            if aligned[tracked.position] is None:
                aligned[tracked.position] = tf.zeros(tracked.kernel.shape, tracked.kernel.dtype)
        # The gradient of an einsum over a batch of unknown size has no static shape, and selecting weights needs one.
        shaped = [
            None if g is None else tf.ensure_shape(g, v.shape)
            for g, v in zip(aligned, self._trainable_variables, strict=True)
        ]
        return distribute.sum_over_replicas(shaped)

    def _align_gradients(self, grads: list[Any], variables: Sequence[keras.Variable] | None) -> list[Any]:
        """Sorts gradients into the order of `build`."""
        known = self._trainable_variables
        variables = known if variables is None else list(variables)
        if len(grads) != len(variables):
            raise InputError(f"Got {len(grads)} gradients for {len(variables)} variables; give one for each.")
        if all(g is None for g in grads):
            raise InputError("No variable has a gradient; compute the loss from the model's outputs inside the tape.")
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
        self.inner.finalize_variable_values(var_list)
        self.masks.project()

    def _saved_variables(self) -> list[Any]:
        return [*self.variables, *self.masks.variables_by_kernel, *self.masks.explored]

    def save_own_variables(self, store: Any) -> None:
        """Stores optimizer and masks in a Keras weights file.

        Args:
          store: maps names to arrays.
        """
        for i, variable in enumerate(self._saved_variables()):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Restores optimizer and masks from a Keras weights file.

        Args:
          store: maps names to arrays.

        Raises:
          ValueError: if the file is of another optimizer, updater or set of sparse kernels.
        """
        saved = self._saved_variables()
        if len(store.keys()) != len(saved):
            raise InputError(
                f"The file holds {len(store.keys())} optimizer variables and masks, this SparseOptimizer {len(saved)}; "
                "build it as the saved one was: same kernels, inner optimizer and updater."
            )
        for i, variable in enumerate(saved):
            variable.assign(store[str(i)])

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration of the inner optimizer; masks and updater belong to a live model."""
        return {"inner": keras.optimizers.serialize(self.inner), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SparseOptimizer":
        """Refuses to load, since masks belong to a live model.

        Raises:
          ValueError: always, with the way to load the model.
        """
        raise InputError(
            "A SparseOptimizer holds the masks of a live model: load it with load_model(path, compile=False), make "
            "masks from the loaded kernels and compile with a new SparseOptimizer."
        )


def _check_inner(inner: keras.optimizers.Optimizer) -> None:
    if inner.gradient_accumulation_steps:
        raise InputError(
            "Keras's gradient_accumulation_steps fails under tf.distribute; leave it out, and use growth_gradient=k to "
            "average the growth gradient over k batches."
        )
    if isinstance(inner, (SparseOptimizer, getattr(keras.optimizers, "MultiOptimizer", ()))):
        raise InputError(f"The slots of a {type(inner).__name__} cannot be masked; give a plain Keras optimizer.")
    if isinstance(inner, keras.optimizers.LossScaleOptimizer) or inner.loss_scale_factor:
        raise InputError(
            "Loss scaling (float16) belongs around the SparseOptimizer, where model.compile puts it under "
            "mixed_float16, not into it: leave it out of the inner optimizer, or use float32 or mixed_bfloat16."
        )
    if inner.built:
        raise InputError("The inner optimizer is already built; pass a new one, so that its slots can be masked.")
