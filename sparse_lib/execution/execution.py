"""Which layers of a model multiply by their active weights alone, and the context in which they do."""

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from sparse_lib._keras import stand_ins, tracing
from sparse_lib._utils.errors import InputError
from sparse_lib.execution import layer_calls, library, rule
from sparse_lib.execution.layer_functions import find_function
from sparse_lib.execution.layer_products import LayerProduct, find_product
from sparse_lib.execution.products import Structure
from sparse_lib.masks import Masks
from sparse_lib.objective import call

Mode = Literal["auto", "dense", "sparse"]
MODES = ("auto", "dense", "sparse")
# Of kernels, by position among the masks.
Plan = tuple[int, ...]
_ELEMENTWISE_REGULARIZERS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


class KernelExecution(NamedTuple):
    """How a kernel is executed.

    Attributes:
      name: of the kernel.
      is_sparse: whether its layer multiplies by the active weights alone.
      reason: why it does, or does not.
    """

    name: str
    is_sparse: bool
    reason: str

    def __str__(self) -> str:
        """Describes the decision, such as `dense: computes in float16`."""
        return f"{'sparse' if self.is_sparse else 'dense'}: {self.reason}"


class Execution:
    """Sparse execution of the layers of a model.

    A layer whose kernel is in the plan computes `y_o = sum over active (r, o) of x_r w_ro` instead of a dense product
    that multiplies by zeros; its gradients are the other two products of the same form. Outside of the context nothing
    of the model is changed.

    Attributes:
      mode: `auto`, `dense` or `sparse`.
      masks: of the model.
    """

    def __init__(
        self,
        model: keras.Model,
        masks: Masks,
        mode: Mode = "auto",
        *,
        jit_compile: bool = False,
    ) -> None:
        """Finds the layers that have a sparse product.

        Args:
          model: a built model.
          masks: of its kernels.
          mode: `sparse` executes every layer that has a sparse product, `auto` those for which it pays by
            `sparse_lib.execution.rule`, `dense` none.
          jit_compile: whether XLA is to compile the steps, which sparse products cannot be part of.

        Raises:
          ValueError: for an unknown mode, or where `sparse` is impossible.
        """
        if mode not in MODES:
            raise InputError(f"The execution is {mode!r}: give one of {', '.join(map(repr, MODES))}.")
        self.mode, self.masks = mode, masks
        self._obstacle = _find_obstacle(jit_compile)
        if mode == "sparse" and self._obstacle:
            raise InputError(f"Sparse execution is not possible here: {self._obstacle}; use execution='auto'.")
        self._needs_dense = ""
        self._trained: Callable[[int], tf.Tensor | tf.Variable] = masks.variables_by_kernel.__getitem__
        owners = tracing.variable_owners(model)
        self._products = [_product_of(owners[id(kernel)], kernel) for kernel in masks.kernels]
        # The masks hold this, and may outlive the model.
        self._model = weakref.ref(model)

    def follow(self, needs_dense: str, trained: Callable[[int], tf.Tensor | tf.Variable]) -> None:
        """Takes over what a training method needs; until then it is the gradients of active weights.

        Args:
          needs_dense: why its steps need dense products, in whatever mode; empty if they do not.
          trained: from the position of a kernel to the weights that train (bool, of the kernel's shape), all active
            ones among them.
        """
        self._needs_dense, self._trained = needs_dense, trained

    @functools.cached_property
    def _positions(self) -> list[int | None]:
        # Not before it is needed: it traces the model.
        with tf.init_scope():
            return _count_positions(self._model(), self._products)

    @functools.cached_property
    def _layer_functions(self) -> list[tuple[keras.Layer, Callable[..., tf.Tensor]]]:
        """Faster calls of layers without sparse kernels, which take most of the time beside sparse products."""
        model = self._model()
        layers = [] if model is None else tracing.all_layers(model)
        replacements = [(layer, find_function(layer)) for layer in layers]
        return [(layer, function) for layer, function in replacements if function is not None]

    def explain(self, batch_size: int | None = None) -> list[KernelExecution]:
        """Decides for each kernel how it is executed at the present density.

        Args:
          batch_size: examples per step (count); None for a large batch.

        Returns:
          One decision per kernel.
        """
        # Also while a graph is traced.
        with tf.init_scope():
            active = [int(tf.math.count_nonzero(self._trained(i))) for i in range(len(self.masks))]
        decisions = []
        for name, count, size, limit in zip(
            self.masks.names, active, self.masks.sizes(), self.limits(batch_size), strict=True
        ):
            if isinstance(limit, str):
                decisions.append(KernelExecution(name, is_sparse=False, reason=limit))
            elif limit == 0:
                decisions.append(KernelExecution(name, is_sparse=False, reason="its products are too few to pay"))
            else:
                is_sparse = count <= limit * size
                reason = f"density {count / max(size, 1):.3f} is {'below' if is_sparse else 'above'} {limit:.2f}"
                decisions.append(KernelExecution(name, is_sparse, reason))
        return decisions

    def limits(self, batch_size: int | None = None, *, trains: bool = True) -> list[float | str]:
        """Finds up to which density the product with each kernel is sparse.

        Args:
          batch_size: examples per step (count); None for a large batch.
          trains: whether it is for the steps of the training method, which may need dense products.

        Returns:
          A density (fraction) per kernel, or the reason why its product is always dense.
        """
        obstacle = self._obstacle or (self._needs_dense if trains else "")
        limits: list[float | str] = []
        for index, (product, kernel) in enumerate(zip(self._products, self.masks.kernels, strict=True)):
            if self.mode == "dense":
                limits.append("execution is 'dense'")
            elif obstacle or isinstance(product, str):
                limits.append(obstacle or str(product))
            elif self.mode == "sparse":
                limits.append(1.0)
            else:
                limits.append(rule.find_limit(product, tuple(kernel.shape), self._positions[index], batch_size))
        return limits

    def plan(self, batch_size: int | None = None) -> Plan:
        """Positions of the kernels to execute sparsely at the present density.

        Args:
          batch_size: examples per step (count); None for a large batch.

        Returns:
          Ascending positions among the masks.
        """
        return tuple(i for i, kernel in enumerate(self.explain(batch_size)) if kernel.is_sparse)

    def structures(self, plan: Plan) -> list[Structure]:
        """Finds the structures of the weights that train, in a graph or eagerly.

        Args:
          plan: positions of kernels.

        Returns:
          One structure per position.
        """
        return [self._product(index).find_structure(self._trained(index)) for index in plan]

    @contextmanager
    def at_masks(self, *, dense_gradients: tf.Tensor | bool = False, changes_density: bool = False) -> Iterator[None]:
        """Executes layers sparsely inside the context, for models whose inactive weights are zero.

        Args:
          dense_gradients: as in `scope`.
          changes_density: whether the graph that is traced inside meets masks of other densities, and decides itself.

        Yields:
          Nothing.
        """
        plan, limits = self._find_possible(trains=True) if changes_density else (self.plan(), None)
        with self.scope(plan, self.structures(plan), dense_gradients=dense_gradients, limits=limits):
            yield

    @contextmanager
    def at_weights(self) -> Iterator[None]:
        """Executes layers sparsely inside the context, by the weights that are not zero, whatever the masks are.

        For inference: gradients miss the weights that are zero by chance. The graph decides itself which layers have
        few enough.

        Yields:
          Nothing.
        """
        plan, limits = self._find_possible(trains=False)
        weights = [tf.convert_to_tensor(self.masks.kernels[index]) for index in plan]
        structures = [
            self._product(index).find_structure(weight != 0) for index, weight in zip(plan, weights, strict=True)
        ]
        with self.scope(plan, structures, limits=limits):
            yield

    def _product(self, index: int) -> LayerProduct:
        product = self._products[index]
        if isinstance(product, str):
            raise InputError(f"{self.masks.names[index]} cannot be executed sparsely: {product}.")
        return product

    def _find_possible(self, *, trains: bool) -> tuple[Plan, list[float]]:
        """Returns the kernels that are executed sparsely at some density, and up to which."""
        limits = enumerate(self.limits(trains=trains))
        possible = {i: limit for i, limit in limits if not isinstance(limit, str) and limit > 0}
        return tuple(possible), list(possible.values())

    @contextmanager
    def scope(
        self,
        plan: Plan,
        structures: Sequence[Structure],
        values: Sequence[Callable[[], tf.Tensor]] | None = None,
        *,
        dense_gradients: tf.Tensor | bool = False,
        limits: Sequence[float] | None = None,
    ) -> Iterator[None]:
        """Executes layers sparsely inside the context.

        Args:
          plan: positions of kernels.
          structures: of their weights that train.
          values: functions that read these weights of each, [nnz]; None gathers them from the kernels.
          dense_gradients: whether the gradients of the kernels are to be dense, which only first derivatives can be; a
            boolean, or a scalar tensor where that is known in the graph alone.
          limits: densities up to which each is sparse, where the graph decides; None means always.

        Yields:
          Nothing.
        """
        calls = []
        for place, index in enumerate(plan):
            product, kernel = self._product(index), self.masks.kernels[index]
            own = None if values is None else values[place]
            limit = 1.0 if limits is None else limits[place]
            weights = layer_calls.Weights(kernel, structures[place], own, dense_gradients, limit)
            calls.append((product.layer, {"call": layer_calls.make_call(product, weights)}))
        if plan:
            calls += [(layer, {"call": function}) for layer, function in self._layer_functions]
        with stand_ins.replace_attributes(calls), stand_ins.replace_regularizers(self._regularizers(plan, values)):
            yield

    def _regularizers(
        self, plan: Plan, values: Sequence[Callable[[], tf.Tensor]] | None
    ) -> list[tuple[keras.Variable, Callable[[Any], tf.Tensor]]]:
        """Regularizers of active weights, where these are given and the kernels are not up to date."""
        replaced = []
        for index, own in zip(plan, values or (), strict=False):
            kernel = self.masks.kernels[index]
            if kernel.regularizer is not None:
                replaced.append((kernel, _regularize_instead(kernel.regularizer, own)))
        return replaced


def _regularize_instead(
    regularizer: Callable[[Any], tf.Tensor], values: Callable[[], tf.Tensor]
) -> Callable[[Any], tf.Tensor]:
    return lambda _: regularizer(values())


def _find_obstacle(jit_compile: bool) -> str:
    """Returns why nothing can be executed sparsely in this process, or ""."""
    if reason := library.reason():
        return reason
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return "sparse products run on CPUs only"
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return "sparse products run on one replica only"
    return "XLA is asked for" if jit_compile else ""


def _product_of(layer: keras.Layer, kernel: keras.Variable) -> LayerProduct | str:
    if kernel.constraint is not None:
        return "its kernel has a constraint"
    if kernel.regularizer is not None and type(kernel.regularizer) not in _ELEMENTWISE_REGULARIZERS:
        return "its regularizer is no sum over weights"
    return find_product(layer, kernel)


def _count_positions(model: keras.Model | None, products: Sequence[LayerProduct | str]) -> list[int | None]:
    """Counts how often one example multiplies each weight; None where the model's inputs do not say."""
    layers = {id(p.layer): p.layer for p in products if not isinstance(p, str)}
    if model is None or not tracing.has_fixed_inputs(model):
        return [None] * len(products)
    with tracing.watch(list(layers.values())) as calls:
        traced = tf.function(lambda x: call(model, [], [], x), autograph=False)
        traced.get_concrete_function(tracing.example(model, 0))
    return [None if isinstance(product, str) else _positions_of(product, calls) for product in products]


def _positions_of(product: LayerProduct, calls: Sequence[tracing.LayerCall]) -> int | None:
    counts = [product.positions(tuple(c.inputs.shape)) for c in calls if c.layer is product.layer]
    known = [count for count in counts if count is not None]
    return sum(known) if counts and len(known) == len(counts) else None
