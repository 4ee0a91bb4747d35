"""SparseOptimizer: a Keras optimizer that wraps a Keras optimizer and keeps its kernels sparse."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import strategies
from sparse_lib.masks import Masks
from sparse_lib.updaters import Kernel, Moment, State, Static, Update, Updater


@dataclasses.dataclass(frozen=True)
class Growth:
    """Dense gradients for a mask update, from elsewhere than the current batch.

    Attributes:
      gradients: one tensor a sparse kernel, summed over replicas where the caller runs on several.
      hessian_gradients: the Hessian times the masked gradient, one tensor a sparse kernel, or None.
    """

    gradients: list[tf.Tensor]
    hessian_gradients: list[tf.Tensor] | None = None


@keras.saving.register_keras_serializable("sparse_lib")
class SparseOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer with masks: trains the active weights and changes the masks on schedule.

    `apply` takes dense gradients. On an ordinary step it masks them, lets the inner optimizer step and sets masked
    weights to zero; on a mask update it asks the updater for new masks, zeroes what left and resets the slots of what
    left or grew. A mask update takes the place of the optimizer step or follows it, as the updater says. The iteration
    count advances either way, so that a learning-rate schedule keeps its pace.

    Works in `fit`, in a custom loop, under XLA and under `tf.distribute`; gradients are summed over replicas once and
    everything after that is the same on each. Any optimizer of Keras can be inside; the factored second moments of
    Adafactor describe rows and columns, so that they alone are not masked.
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
          updater: how masks change; None keeps them as they are.
          growth_gradient: 1 scores growth by the current batch's gradient (RigL, Algorithm 1); k > 1 by the average
            over the k batches up to the update; a callable returns `Growth`, for example from a held-out batch.
          seed: seed of random growth.
          name: name of the optimizer.

        Raises:
          ValueError: for what cannot be right: gradient accumulation or loss scaling in the inner optimizer, an
            updater that needs a Hessian-gradient product that nobody computes.
        """
        super().__init__(learning_rate=0.0, name=name)
        updater = Static() if updater is None else updater
        _check_inner(inner)
        _check_growth(updater, growth_gradient)
        self.inner = inner
        self.masks = masks
        self.updater = updater
        self._growth = growth_gradient
        self._seed = seed
        # Gradients are summed over replicas here, once, and clipped as one; the inner optimizer must not sum again.
        inner._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the inner optimizer's slots and the updater's state, and remembers which slot is whose.

        Args:
          variables: the trainable variables, sparse kernels among them.

        Raises:
          ValueError: if a masked kernel is not among the variables, or lives under another strategy.
        """
        if self.built:
            return
        variables = list(variables)
        self._positions = self._checked_positions(variables)
        self._slots_by_name = self._build_inner(variables)
        of_variable = list(zip(*self._slots_by_name.values(), strict=True)) or [()] * len(variables)
        self._slots = [[s for s in of_variable[p] if s is not None] for p in self._positions]
        # Adagrad, for one, does not start at zero.
        self._starts = [[_start(slot) for slot in slots] for slots in self._slots]
        specs = (*self.updater.state_specs, *(["growth"] if self._averages_growth else []))
        self._state = [{spec: self._state_variable(spec, index) for spec in specs} for index in range(len(self.masks))]
        super().build(variables)

    def _checked_positions(self, variables: list[keras.Variable]) -> list[int]:
        positions = {id(v): i for i, v in enumerate(variables)}
        named = list(zip(self.masks.names, self.masks.kernels, strict=True))
        missing = [name for name, kernel in named if id(kernel) not in positions]
        if missing:
            raise ValueError(
                f"The masked kernels {', '.join(missing)} are not among the trainable variables; build the masks "
                "from the model that is trained, and leave frozen layers out of them."
            )
        strategies_of = [self._distribution_strategy, self.inner._distribution_strategy]
        owners = {strategies.owner(kernel.value) for _, kernel in named} - {None}
        if any(owner is not strategy for owner in owners for strategy in strategies_of):
            raise ValueError(
                "The model lives under another tf.distribute strategy than its optimizer; create the model and both "
                "optimizers inside the same `with strategy.scope():`."
            )
        return [positions[id(kernel)] for _, kernel in named]

    def _build_inner(self, variables: list[keras.Variable]) -> dict[str, list[keras.Variable | None]]:
        """Builds the inner optimizer; returns its slots by name, for each name one a variable or None."""
        positions = {id(v): i for i, v in enumerate(variables)}
        slots: dict[str, list[keras.Variable | None]] = {}
        add = self.inner.add_variable_from_reference

        def recording(reference_variable: Any, name: str = "slot", **kwargs: Any) -> keras.Variable:
            slot = add(reference_variable, name=name, **kwargs)
            slots.setdefault(name, [None] * len(variables))[positions[id(reference_variable)]] = slot
            return slot

        self.inner.add_variable_from_reference = recording
        self.inner.build(variables)
        del self.inner.add_variable_from_reference
        return slots

    def _state_variable(self, spec: str, index: int) -> keras.Variable:
        kernel, initial = self.masks.kernels[index], self.masks.initial[index]
        start: Any = "zeros"
        if spec == "initial":
            start = lambda shape, dtype: tf.cast(initial, dtype)  # noqa: E731
        elif spec == "reserve":
            off_mask = ~self.masks.variables_by_kernel[index].numpy()
            start = lambda shape, dtype: tf.cast(initial * off_mask, dtype)  # noqa: E731
        return self.add_variable_from_reference(kernel, name=spec, initializer=start)

    @property
    def _averages_growth(self) -> bool:
        return not callable(self._growth) and self._growth > 1

    @property
    def variables(self) -> list[keras.Variable]:
        """The inner optimizer's variables and the updater's state."""
        return self.inner.variables + [v for state in getattr(self, "_state", []) for v in state.values()]

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
    def slots(self) -> list[list[keras.Variable]]:
        """The inner optimizer's slots of each sparse kernel, in the order of the masks."""
        return self._slots

    @property
    def slots_by_name(self) -> dict[str, list[keras.Variable | None]]:
        """The inner optimizer's slots, such as `momentum`: for each name one a trainable variable, or None."""
        return self._slots_by_name

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Takes one step: an optimizer step, a mask update, or both, as the updater's schedule says.

        Args:
          grads: dense gradients, one a trainable variable.
          trainable_variables: the variables of the gradients; None means those of `build`.
        """
        strategies.merge(self._apply_merged, self.reduce(grads, trainable_variables))

    def train_step(self, reduced: Sequence[tf.Tensor | None]) -> None:
        """The optimizer step alone, without a mask update, from replica context.

        Args:
          reduced: gradients from `reduce`.
        """
        strategies.merge(self._train_merged, list(reduced))

    def mask_step(self, reduced: Sequence[tf.Tensor | None]) -> None:
        """The mask update alone, from replica context; the iteration count advances if it replaces a step.

        Args:
          reduced: gradients from `reduce`.
        """

        def update(strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
            step = self._step()
            # On top of an optimizer step, the count has advanced already.
            self._mask_merged(strategy, grads, step if self.updater.replaces_step else step - 1)

        strategies.merge(update, list(reduced))

    def reduce(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> list[tf.Tensor | None]:
        """Sums dense gradients over replicas, from replica context; builds the optimizer if need be.

        Args:
          grads: dense gradients, one a trainable variable; None for a variable that the loss does not depend on.
          trainable_variables: the variables of the gradients; None means those of `build`.

        Returns:
          One tensor a variable of `build`; None stays None, but for sparse kernels, where it means zero.

        Raises:
          ValueError: if gradients and variables do not belong together, or this is no replica context.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1 and tf.distribute.in_cross_replica_context():
            raise ValueError("Gradients are per replica: call the optimizer inside strategy.run(...).")
        if not self.built:
            if trainable_variables is None or replicas > 1:
                raise ValueError("Call optimizer.build(model.trainable_variables) before the first step.")
            with tf.init_scope():
                self.build(list(trainable_variables))
        aligned = self._aligned(list(grads), trainable_variables)
        for position, kernel in zip(self._positions, self.masks.kernels, strict=True):
            if aligned[position] is None:
                aligned[position] = tf.zeros(kernel.shape, kernel.dtype)
        return strategies.sum_over_replicas([None if g is None else tf.convert_to_tensor(g) for g in aligned])

    def _aligned(self, grads: list[Any], variables: Sequence[keras.Variable] | None) -> list[Any]:
        """Gradients in the order of `build`."""
        known = self._trainable_variables
        variables = known if variables is None else list(variables)
        if len(grads) != len(variables):
            raise ValueError(f"Got {len(grads)} gradients for {len(variables)} variables; give one for each.")
        if all(g is None for g in grads):
            raise ValueError("No variable has a gradient; compute the loss from the model's outputs inside the tape.")
        given = {self._var_key(v): g for v, g in zip(variables, grads, strict=True)}
        unknown = [v.path for v in variables if self._var_key(v) not in self._trainable_variables_indices]
        if unknown:
            raise ValueError(
                f"The optimizer was built without {', '.join(unknown)}; make a new one for the new set of variables."
            )
        return [given.get(self._var_key(v)) for v in known]

    def _step(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.inner._iterations.value)

    def _apply_merged(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        if self.updater.schedule.never:
            self._train_merged(strategy, grads)
            return
        step = self._step()

        def touched() -> list[Any]:
            # A branch that passes a gradient on as it is mixes the graphs of the replicas' custom gradients.
            same = lambda gs: [None if g is None else tf.identity(g) for g in gs]  # noqa: E731
            return strategies.per_replica(strategy, same, grads)

        def train() -> tf.Tensor:
            self._train_merged(strategy, touched())
            return tf.zeros([], tf.int32)

        def update() -> tf.Tensor:
            inside = touched()
            if not self.updater.replaces_step:
                self._train_merged(strategy, inside)
            self._mask_merged(strategy, inside, step)
            return tf.zeros([], tf.int32)

        tf.cond(self.updater.schedule.is_update_step(step), update, train)

    def _train_merged(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        self._accumulate(strategy, grads)
        if self.updater.has_reserve:
            self._join_reserve(strategy)

        def step(gradients: list[Any]) -> None:
            masked = list(gradients)
            for index, (position, (kernel, mask)) in enumerate(zip(self._positions, self.masks, strict=True)):
                masked[position] = self.updater.training_gradient(
                    gradients[position],
                    tf.convert_to_tensor(mask),
                    tf.convert_to_tensor(kernel.value),
                    self._state_values(index),
                )
            self.inner.apply(masked, self._trainable_variables)

        strategies.per_replica(strategy, step, grads)
        if self.updater.has_reserve:
            self._split_reserve(strategy)
        self.masks.project()

    def _join_reserve(self, strategy: tf.distribute.Strategy) -> None:
        for kernel, state in zip(self.masks.kernels, self._state, strict=True):
            strategies.update(strategy, kernel.value, lambda k, reserve: k + reserve, state["reserve"].value)

    def _split_reserve(self, strategy: tf.distribute.Strategy) -> None:
        def unused(_: tf.Variable, theta: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            return tf.where(mask, tf.zeros_like(theta), theta)

        for (kernel, mask), state in zip(self.masks, self._state, strict=True):
            strategies.update(strategy, state["reserve"].value, unused, kernel.value, mask)

    def _state_values(self, index: int) -> State:
        return {name: tf.convert_to_tensor(v.value) for name, v in self._state[index].items()}

    def _accumulate(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        def changes(gradients: list[Any]) -> list[State]:
            changed = []
            for index, position in enumerate(self._positions):
                state = self._state_values(index)
                new = self.updater.accumulate(state, gradients[position])
                if self._averages_growth:
                    new = {**new, "growth": self._growth_sum(state["growth"], gradients[position])}
                changed.append(new)
            return changed

        if self._state and self._state[0]:
            for variables, values in zip(self._state, strategies.per_replica(strategy, changes, grads), strict=True):
                for name, value in values.items():
                    strategies.assign(strategy, variables[name].value, value)

    def _growth_sum(self, total: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """Sum of the gradients that starts anew at the first of the k batches up to an update."""
        schedule = self.updater.schedule
        age = tf.math.floormod(self._step() - schedule.begin - 1, schedule.frequency)
        return tf.where(age > schedule.frequency - self._growth, total + gradient, gradient)

    def _growth_of(self, gradients: list[Any], step: tf.Tensor) -> Growth:
        if callable(self._growth):
            return self._growth()
        if not self._averages_growth:
            return Growth([gradients[position] for position in self._positions])
        # A first update may come before there were k batches.
        count = tf.minimum(tf.cast(step, tf.int32) + 1, self._growth)
        sums = [tf.convert_to_tensor(state["growth"].value) for state in self._state]
        return Growth([total / tf.cast(count, total.dtype) for total in sums])

    def _mask_merged(self, strategy: tf.distribute.Strategy, grads: list[Any], step: tf.Tensor) -> None:
        if self.updater.replaces_step:
            self._accumulate(strategy, grads)

        def transition(gradients: list[Any]) -> list[list[tf.Tensor]]:
            moment = Moment(step, tf.convert_to_tensor(self.inner.learning_rate), self._seed)
            growth = self._growth_of(gradients, step)
            products = growth.hessian_gradients or [None] * len(self.masks)
            kernels = [
                Kernel(
                    tf.convert_to_tensor(mask),
                    tf.convert_to_tensor(kernel.value),
                    tf.convert_to_tensor(growth.gradients[index]),
                    self._state_values(index),
                    products[index],
                )
                for index, (kernel, mask) in enumerate(self.masks)
            ]
            updates = self.updater.update(kernels, moment)
            return [self._after_update(index, update) for index, update in enumerate(updates)]

        for index, values in enumerate(strategies.per_replica(strategy, transition, grads)):
            for variable, value in zip(self._changed_by_update(index), values, strict=True):
                strategies.assign(strategy, variable, value)
        if self.updater.replaces_step:
            strategies.assign(strategy, self.inner._iterations.value, step + 1)

    def _changed_by_update(self, index: int) -> list[tf.Variable]:
        state = [self._state[index][name] for name in self.updater.state_specs]
        mask, explored = self.masks.variables_by_kernel[index], self.masks.explored[index]
        return [mask, explored] + [v.value for v in [self.masks.kernels[index], *self._slots[index], *state]]

    def _after_update(self, index: int, update: Update) -> list[tf.Tensor]:
        """New values of `_changed_by_update`; slots start anew where a weight left or grew."""
        explored = tf.convert_to_tensor(self.masks.explored[index]) | update.mask
        stays = update.mask & ~update.grown
        if self.updater.has_reserve:
            stays |= update.state["backward"] > 0
        slots = [
            tf.where(stays, slot.value, tf.cast(start, slot.dtype))
            for slot, start in zip(self._slots[index], self._starts[index], strict=True)
        ]
        state = [update.state[name] for name in self.updater.state_specs]
        return [update.mask, explored, update.weight, *slots, *state]

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Lets the inner optimizer write its averages (EMA) into the weights, then masks them.

        Args:
          var_list: the model's trainable variables.
        """
        self.inner.finalize_variable_values(var_list)
        self.masks.project()

    def _saved(self) -> list[Any]:
        return [*self.variables, *self.masks.variables_by_kernel, *self.masks.explored]

    def save_own_variables(self, store: Any) -> None:
        """Puts optimizer and masks into a Keras weights file.

        Args:
          store: maps names to arrays.
        """
        for i, variable in enumerate(self._saved()):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Takes optimizer and masks from a Keras weights file.

        Args:
          store: maps names to arrays.

        Raises:
          ValueError: if the file is of another optimizer, updater or set of sparse kernels.
        """
        saved = self._saved()
        if len(store.keys()) != len(saved):
            raise ValueError(
                f"The file holds {len(store.keys())} optimizer variables and masks, this SparseOptimizer {len(saved)}; "
                "build it as the saved one was: same kernels, inner optimizer and updater."
            )
        for i, variable in enumerate(saved):
            variable.assign(store[str(i)])

    def get_config(self) -> dict[str, Any]:
        """Configuration of the inner optimizer; masks and updater belong to a live model."""
        return {"inner": keras.optimizers.serialize(self.inner), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SparseOptimizer":
        """Says how to go on with a saved model.

        Raises:
          ValueError: always; masks belong to a live model.
        """
        raise ValueError(
            "A SparseOptimizer holds the masks of a live model: load it with load_model(path, compile=False), make "
            "masks from the loaded kernels and compile with a new SparseOptimizer."
        )


def _check_inner(inner: keras.optimizers.Optimizer) -> None:
    if inner.gradient_accumulation_steps:
        raise ValueError(
            "Keras's gradient_accumulation_steps fails under tf.distribute; leave it out, and use growth_gradient=k to "
            "average the growth gradient over k batches."
        )
    if isinstance(inner, keras.optimizers.LossScaleOptimizer) or inner.loss_scale_factor:
        raise ValueError("Loss scaling (float16) is not supported with sparse kernels; use float32 or mixed_bfloat16.")
    if isinstance(inner, (SparseOptimizer, getattr(keras.optimizers, "MultiOptimizer", ()))):
        raise ValueError(f"The slots of a {type(inner).__name__} cannot be masked; give a plain Keras optimizer.")
    if inner.built:
        raise ValueError("The inner optimizer is already built; pass a new one, so that its slots can be masked.")


def _check_growth(updater: Updater, growth_gradient: int | Callable[[], Growth]) -> None:
    if callable(growth_gradient):
        return
    if updater.needs_hessian:
        raise ValueError(
            f"{type(updater).__name__} needs Hessian-gradient products: pass a callable growth_gradient that returns "
            "Growth(gradients, hessian_gradients)."
        )
    if not 1 <= growth_gradient <= updater.schedule.frequency:
        raise ValueError(
            f"growth_gradient={growth_gradient} must be between 1 and the update frequency, "
            f"{updater.schedule.frequency}."
        )


def _start(slot: keras.Variable) -> float:
    """The number that a slot starts at; 0 where it starts as a copy of the weights."""
    values = np.ravel(slot.numpy())
    return float(values[0]) if values.size and np.all(values == values[0]) else 0.0
