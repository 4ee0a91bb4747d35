"""Factors of the matrices between Jacobians in Gauss-Newton and Fisher matrices: M_i = sum_k u_ik u_ik^T."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.operators import Tensors, pull_back
from sparse_lib.objective import Objective

Labels = Literal["model", "sampled", "data"]
# From outputs, targets and the index of a batch to vectors u_ik, [k, *outputs.shape].
Factor: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]

# The scores of a likelihood have mean zero; float errors per class are far below this.
_SCORE_TOLERANCE = 1e-3
_CONVEXITY_TOLERANCE = 1e-4


def check_labels(labels: str, samples: int) -> None:
    """Checks the options of a Fisher matrix.

    Args:
      labels: where the labels come from.
      samples: labels drawn per example (count).

    Raises:
      InputError: for unknown labels or no samples.
    """
    if labels not in get_args(Labels) or samples < 1:
        raise InputError(
            f"labels must be one of {', '.join(get_args(Labels))} and samples at least 1; got {labels!r} and {samples}."
        )


def first_outputs(
    objective: Objective, params: Tensors, data: tuple[tf.Tensor, tf.Tensor], training: bool
) -> tf.Tensor:
    """Outputs of the first batch, in at least float32.

    Args:
      objective: the loss.
      params: trainable values.
      data: inputs and targets.
      training: whether layers run in training mode.

    Returns:
      The outputs.

    Raises:
      InputError: if the model returns several tensors.
    """
    return at_least_float32(require_tensor(objective.outputs(params, data[0], training=training)))


def check_likelihood(objective: Objective, outputs: tf.Tensor, y: tf.Tensor) -> None:
    """Checks that a loss is the cross-entropy of softmax(outputs), so that the model has labels of its own.

    Args:
      objective: the loss.
      outputs: of a batch.
      y: its targets.

    Raises:
      InputError: for another loss, or outputs that are not [n, classes].
    """
    if outputs.shape.rank != 2:
        raise InputError(f"Labels of the model need outputs of shape [n, classes]; got {outputs.shape}.")
    mean = sum_over_classes(objective, outputs, y, lambda probability, score: probability * score)
    if not float(tf.reduce_max(tf.abs(mean))) < _SCORE_TOLERANCE:
        raise InputError(
            "The loss is not the cross-entropy of softmax(outputs), so the model's labels do not follow from "
            "it: use labels='data', or GaussNewtonOperator."
        )


def check_convexity(objective: Objective, outputs: tf.Tensor, y: tf.Tensor) -> None:
    """Checks that a loss is convex in the outputs of a batch, as the Gauss-Newton matrix needs to have factors.

    Args:
      objective: the loss.
      outputs: of a batch.
      y: its targets.

    Raises:
      InputError: for a negative eigenvalue of its Hessian.
    """
    values, _ = hessian_eigenpairs(objective, outputs, y)
    lowest, highest = float(tf.reduce_min(values)), float(tf.reduce_max(tf.abs(values)))
    if not lowest >= -_CONVEXITY_TOLERANCE * highest:
        raise InputError(
            f"The loss is not convex in the outputs: its Hessian has the eigenvalue {lowest:g}. Take labels='data', or "
            "a HessianOperator."
        )


def output_hessian(objective: Objective, outputs: tf.Tensor, y: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """The map u -> H u with H_i = d^2 L_i / d outputs_i^2.

    Args:
      objective: the loss.
      outputs: of a batch.
      y: its targets.

    Returns:
      Function on tensors of the outputs' shape.
    """
    with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
        tape.watch(outputs)
        gradient = output_gradient(objective, outputs, y)
    return lambda vector: pull_back(tape, gradient, [outputs], vector)[0]


def hessian_eigenpairs(objective: Objective, outputs: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Eigenvalues [n, k] and eigenvectors [n, k, k], as columns, of H_i on the k entries of an example's outputs.

    Args:
      objective: the loss.
      outputs: of a batch.
      y: its targets.

    Returns:
      Both, ascending.
    """
    size = int(tf.size(outputs[0])) if tf.executing_eagerly() else outputs[0].shape.num_elements()
    product = output_hessian(objective, outputs, y)

    def column(entry: tf.Tensor) -> tf.Tensor:
        unit = tf.broadcast_to(
            tf.reshape(tf.one_hot(entry, size, dtype=outputs.dtype), outputs.shape[1:]), tf.shape(outputs)
        )
        return tf.reshape(product(unit), [-1, size])

    columns = tf.map_fn(column, tf.range(size), fn_output_signature=tf.TensorSpec([None, size], outputs.dtype))
    return tf.linalg.eigh(tf.transpose(columns, [1, 0, 2]))


def gauss_newton_factor(objective: Objective) -> Factor:
    """Vectors whose outer products sum to the Hessian of a convex loss in the outputs, one per output.

    u_ik = sqrt(lambda_ik) v_ik,  H_i v_ik = lambda_ik v_ik

    Args:
      objective: the loss.

    Returns:
      The factor.
    """

    def factor(outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        del index
        values, vectors = hessian_eigenpairs(objective, outputs, y)
        vectors *= tf.sqrt(tf.maximum(values, 0.0))[:, tf.newaxis]
        return tf.reshape(tf.transpose(vectors, [2, 0, 1]), [values.shape[1], -1, *outputs.shape[1:]])

    return factor


def fisher_factor(objective: Objective, labels: Labels, samples: int, seed: int) -> Factor:
    """Gradients in the outputs whose outer products sum to those of a Fisher matrix.

    Args:
      objective: the loss.
      labels: `model` sums over all classes, `sampled` draws labels, `data` takes the given labels.
      samples: number of labels drawn per example (count).
      seed: random seed; the draws of a batch depend on (seed, index of the batch).

    Returns:
      The factor.
    """

    def weigh_classes(outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        del index
        roots = tf.sqrt(tf.nn.softmax(outputs))

        def weigh(label: tf.Tensor) -> tf.Tensor:
            own = tf.fill(tf.shape(outputs)[:1], label)
            return tf.gather(roots, label, axis=-1)[:, None] * score(objective, outputs, y, own)

        return tf.map_fn(weigh, tf.range(outputs.shape[-1]), fn_output_signature=outputs.dtype)

    def draw_labels(outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        return sampled_scores(objective, outputs, y, draw(outputs, index, samples, seed)) / samples**0.5

    def take_data(outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        del index
        return output_gradient(objective, outputs, y)[None]

    return {"model": weigh_classes, "sampled": draw_labels, "data": take_data}[labels]


def draw(outputs: tf.Tensor, index: tf.Tensor, samples: int, seed: int) -> tf.Tensor:
    """Samples labels of the model by the Gumbel-max trick.

    Args:
      outputs: logits, [n, classes].
      index: index of the batch.
      samples: labels per example (count).
      seed: random seed.

    Returns:
      Class indices, [samples, n].
    """
    shape = tf.concat([[samples], tf.shape(outputs)], axis=0)
    uniform = tf.random.stateless_uniform(shape, tf.stack([seed, index]), minval=1e-30, alg="philox")
    return tf.argmax(outputs - tf.cast(tf.math.log(-tf.math.log(uniform)), outputs.dtype), axis=-1)


def sampled_scores(objective: Objective, outputs: tf.Tensor, y: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Scores of several labels per example, [samples, n, classes].

    Args:
      objective: the loss.
      outputs: logits, [n, classes].
      y: targets, for their form.
      labels: class indices, [samples, n].

    Returns:
      The scores.
    """
    return tf.map_fn(lambda own: score(objective, outputs, y, own), labels, fn_output_signature=outputs.dtype)


def score(objective: Objective, outputs: tf.Tensor, y: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Gradient of each example's loss in its outputs, with the given class indices as labels.

    Args:
      objective: the loss.
      outputs: logits, [n, classes].
      y: targets, for their form: indices [n] or [n, 1], or one-hot rows.
      labels: class indices, [n].

    Returns:
      The gradient, [n, classes].
    """
    if y.shape.rank == 2 and y.shape[-1] == outputs.shape[-1]:
        return output_gradient(objective, outputs, tf.one_hot(labels, outputs.shape[-1], dtype=y.dtype))
    return output_gradient(objective, outputs, tf.reshape(tf.cast(labels, y.dtype), tf.shape(y)))


def sum_over_classes(
    objective: Objective, outputs: tf.Tensor, y: tf.Tensor, term: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Sum over classes c of term(p_c [n, 1], gradient of the loss with label c [n, classes]).

    Args:
      objective: the loss.
      outputs: logits, [n, classes].
      y: targets, for their form.
      term: the summand.

    Returns:
      The sum, [n, classes].
    """
    probabilities = tf.nn.softmax(outputs)

    def add(total: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        its_score = score(objective, outputs, y, tf.fill(tf.shape(outputs)[:1], label))
        return total + term(tf.gather(probabilities, label, axis=-1)[:, None], its_score)

    # One class at a time: 1,000 classes at once would take 1,000 times the memory of the outputs.
    return tf.foldl(add, tf.range(outputs.shape[-1]), tf.zeros_like(outputs), parallel_iterations=1)


def output_gradient(objective: Objective, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Gradient of each example's loss in its outputs.

    Args:
      objective: the loss.
      outputs: of a batch.
      y: its targets.

    Returns:
      A tensor of the outputs' shape.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(outputs)
        losses = objective.losses_of(outputs, y)
    return pull_back(tape, losses, [outputs], None)[0]


def require_tensor(outputs: tf.Tensor) -> tf.Tensor:
    """Returns the outputs of a model if they are one tensor.

    Args:
      outputs: of a model.

    Returns:
      The same.

    Raises:
      InputError: for a structure of tensors.
    """
    if not tf.is_tensor(outputs):
        raise InputError("The model returns several outputs; Gauss-Newton and Fisher matrices need a single tensor.")
    return outputs


def at_least_float32(outputs: tf.Tensor) -> tf.Tensor:
    """Casts half-precision outputs to float32, in which losses are computed.

    Args:
      outputs: of any floating-point dtype.

    Returns:
      Float64 or float32.
    """
    return outputs if outputs.dtype == tf.float64 else tf.cast(outputs, tf.float32)
