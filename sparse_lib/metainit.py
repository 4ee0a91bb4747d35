"""MetaInit: learns the norms of the initial kernels from random data (Dauphin & Schoenholz 2019).

At a good initialisation a gradient step changes the gradient little. The gradient quotient measures that change, and
MetaInit minimises it over the norm of each kernel; directions and masks stay fixed.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from sparse_lib import gradient_flow, initializers
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.sums import sum_in_order
from sparse_lib.objective import Objective

MaskList = Sequence[tf.Tensor | None]


def gradient_quotient(
    objective: Objective,
    params: Sequence[tf.Tensor],
    masks: MaskList,
    x: tf.Tensor,
    y: tf.Tensor,
    *,
    epsilon: float = 1e-5,
) -> tf.Tensor:
    """Gradient quotient: relative change of the gradient by a gradient step, averaged over the active weights.

    mean(|(g - H g) / (g + epsilon * sign(g)) - 1|),  sign(0) = 1

    with the gradient g and Hessian H of the mean loss in the active weights (Dauphin & Schoenholz 2019). It is near 0
    where the loss is linear; a weight with zero gradient before and after the step counts as 1.

    Args:
      objective: the loss.
      params: trainable values, in the order of `model.trainable_variables`, 0 off their masks.
      masks: one boolean mask per variable, of its shape, or None where all weights are active.
      x: inputs, [n, ...].
      y: labels, [n].
      epsilon: guards the division; 1e-5 in the paper's code.

    Returns:
      The quotient, a scalar of the parameters' dtype.
    """
    gradients = gradient_flow.apply_masks(objective.gradient(params, x, y), masks)
    products = objective.hvp(params, x, y, gradients)
    return _mean_change(gradients, products, masks, epsilon)


def metainit(
    model: keras.Model,
    masks: MaskList,
    *,
    num_classes: int,
    seed: initializers.Seed,
    steps: int = 1000,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    batch_size: int = 128,
    epsilon: float = 1e-5,
    input_shape: Sequence[int] | None = None,
) -> list[tf.Tensor]:
    """Rescales the kernels of a model to minimise the gradient quotient of the cross-entropy loss.

    Each step draws inputs from N(0, 1) and uniform labels, and updates the norm of every kernel (of rank 2 or higher)
    by signed gradient descent with momentum (Dauphin & Schoenholz 2019):

      v <- momentum * v - learning_rate * sign(d quotient / d norm)
      norm <- max(norm + v, epsilon)

    Args:
      model: a built model from a batch of inputs to logits; it is left unchanged.
      masks: one boolean mask per trainable variable, of its shape, or None where all weights are active.
      num_classes: number of logits (count).
      seed: one integer, or two as for `tf.random.stateless_normal`.
      steps: optimisation steps (count); 1,000 as in the code of the gradient-flow paper (arXiv 2010.03533).
      learning_rate: change of a norm per step; 1e-3 as there.
      momentum: momentum of the norms; 0.9 in the paper's code.
      batch_size: inputs per step (count).
      epsilon: see `gradient_quotient`; also the smallest norm, so no kernel changes its sign.
      input_shape: shape of one input, without the batch; None takes the model's.

    Returns:
      New values in the order of `model.trainable_variables`: kernels with new norms, exactly 0 off their masks, and
      all other variables unchanged.

    Raises:
      ValueError: if the masks do not fit the variables, the input shape is unknown or the loss is not finite.
    """
    _check_masks(masks, model.trainable_variables)
    shape = (batch_size, *_input_shape(model, input_shape))
    objective = Objective(model)
    kernels = KernelNorms(gradient_flow.apply_masks(objective.params(), masks))
    slope_of = norm_slope(objective, kernels, masks, epsilon)

    norms, velocity = kernels.start, tf.zeros_like(kernels.start)
    for step in range(steps):
        seeds = tf.random.fold_in(initializers.seed_pair(seed), step, alg="philox")
        x_seed, y_seed = tf.unstack(tf.random.split(seeds, 2, alg="philox"))
        x = tf.random.stateless_normal(shape, x_seed, alg="philox")
        y = tf.random.stateless_uniform([batch_size], y_seed, 0, num_classes, tf.int32, alg="philox")
        velocity = momentum * velocity - learning_rate * tf.sign(slope_of(norms, x, y))
        norms = tf.maximum(norms + velocity, epsilon)
    if not bool(tf.reduce_all(tf.math.is_finite(norms))):
        raise InputError(f"MetaInit met losses of {model.name!r} that are not finite; start from smaller weights.")
    return kernels.rescale(norms)


class KernelNorms:
    """Trainable values as a function of the kernels' norms, with fixed directions.

    Attributes:
      start: norms of the given values, [kernels].
    """

    def __init__(self, values: Sequence[tf.Tensor]) -> None:
        """Splits kernels into norms and directions.

        Args:
          values: trainable values, of which those of rank 2 or higher are kernels.
        """
        self._values = list(values)
        self._places = [i for i, value in enumerate(values) if value.shape.rank > 1]
        lengths = [tf.norm(values[i]) for i in self._places]
        self._directions = [
            tf.math.divide_no_nan(values[i], length) for i, length in zip(self._places, lengths, strict=True)
        ]
        self.start = tf.stack([tf.cast(length, tf.float32) for length in lengths])

    def rescale(self, norms: tf.Tensor) -> list[tf.Tensor]:
        """Replaces the norms of the kernels.

        Args:
          norms: new norms, [kernels].

        Returns:
          Trainable values, in the order of the variables.
        """
        values = list(self._values)
        for k, (place, direction) in enumerate(zip(self._places, self._directions, strict=True)):
            values[place] = direction * tf.cast(norms[k], direction.dtype)
        return values


def norm_slope(
    objective: Objective, kernels: KernelNorms, masks: MaskList, epsilon: float
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Builds the function (norms, x, y) -> gradient of the gradient quotient in the norms.

    The quotient is q(g, p) with p = H g. With a and b its derivatives in g and p, the gradient is that of
    `<a + H b, g> + <b, H v>` in the norms, where v = g and all vectors but g and H v are constant.

    Each pass is a separate graph that takes the vectors as arguments: with oneDNN, TensorFlow 2.21 fuses the gradients
    of a convolution's bias and kernel, which can close a cycle ("nodes in a cycle") in a graph that both computes the
    gradient and multiplies it by the Hessian.

    Args:
      objective: the loss.
      kernels: trainable values as a function of the norms.
      masks: one boolean mask per variable, or None where all weights are active.
      epsilon: see `gradient_quotient`.

    Returns:
      A compiled function of norms [kernels], inputs and labels to the gradient [kernels].
    """

    @tf.function
    def gradient(norms: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        return gradient_flow.apply_masks(objective.gradient(kernels.rescale(norms), x, y), masks)

    @tf.function
    def product(norms: tf.Tensor, x: tf.Tensor, y: tf.Tensor, vectors: list[tf.Tensor]) -> list[tf.Tensor]:
        return gradient_flow.apply_masks(objective.hvp(kernels.rescale(norms), x, y, vectors), masks)

    @tf.function
    def partials(gradients: list[tf.Tensor], products: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([gradients, products])
            change = _mean_change(gradients, products, masks, epsilon)
        by_gradient, by_product = tape.gradient(change, [gradients, products])
        return by_gradient, by_product

    @tf.function
    def slope(
        norms: tf.Tensor,
        x: tf.Tensor,
        y: tf.Tensor,
        vectors: list[tf.Tensor],
        by_gradient: list[tf.Tensor],
        by_product: list[tf.Tensor],
    ) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(norms)
            params = kernels.rescale(norms)
            first = _inner(objective.gradient(params, x, y), by_gradient)
            second = _inner(objective.hvp(params, x, y, vectors), by_product)
            total = first + second
        return tape.gradient(total, norms)

    def slope_of(norms: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        gradients = gradient(norms, x, y)
        by_gradient, by_product = partials(gradients, product(norms, x, y, gradients))
        pulled = product(norms, x, y, by_product)
        by_gradient = [a + p for a, p in zip(by_gradient, pulled, strict=True)]
        return slope(norms, x, y, gradients, by_gradient, by_product)

    return slope_of


def _mean_change(
    gradients: Sequence[tf.Tensor], products: Sequence[tf.Tensor], masks: MaskList, epsilon: float
) -> tf.Tensor:
    changes = [
        tf.abs((g - p) / tf.where(g >= 0, g + epsilon, g - epsilon) - 1)
        for g, p in zip(gradients, products, strict=True)
    ]
    total = sum_in_order([tf.reduce_sum(change) for change in gradient_flow.apply_masks(changes, masks)])
    counts = [
        tf.size(change, tf.int64) if mask is None else tf.math.count_nonzero(mask)
        for change, mask in zip(changes, masks, strict=True)
    ]
    return total / tf.cast(tf.maximum(sum_in_order(counts), 1), total.dtype)


def _inner(left: Sequence[tf.Tensor], right: Sequence[tf.Tensor]) -> tf.Tensor:
    return sum_in_order([tf.reduce_sum(a * b) for a, b in zip(left, right, strict=True)])


def _check_masks(masks: MaskList, variables: Sequence[keras.Variable]) -> None:
    if len(masks) != len(variables):
        raise InputError(
            f"Got {len(masks)} masks for {len(variables)} trainable variables; give one for each, None where all "
            "weights are active."
        )
    for mask, variable in zip(masks, variables, strict=True):
        if mask is not None and tuple(mask.shape) != tuple(variable.shape):
            raise InputError(
                f"The mask of {variable.path} has shape {tuple(mask.shape)}, its variable "
                f"{tuple(variable.shape)}; give masks in order of model.trainable_variables."
            )


def _input_shape(model: keras.Model, given: Sequence[int] | None) -> tuple[int, ...]:
    batched = getattr(model, "input_shape", None)
    shape = batched[1:] if given is None and isinstance(batched, tuple) else given
    if shape is None or not all(isinstance(size, int) and size > 0 for size in shape):
        raise InputError(
            f"MetaInit cannot draw inputs for {model.name!r}, whose input shape is {shape}; give "
            "input_shape=, the shape of one input."
        )
    return tuple(shape)
