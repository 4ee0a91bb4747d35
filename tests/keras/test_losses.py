"""Losses and accuracies of all shapes are those of Keras' own training and metrics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import Objective, curvature, measure, oneshot

L, losses = keras.layers, keras.losses
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(23, 7)).astype("float32")
Y = RANDOM.integers(0, 2, 23)
TOKENS, NEXT = RANDOM.integers(1, 11, (23, 5)), RANDOM.integers(0, 11, (23, 5))
CLASSES = losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(units: int, activation: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((7,)), L.Dense(3, "tanh"), L.Dense(units, activation)])


def of_tokens(mask_zero: bool = False) -> keras.Model:
    keras.utils.set_random_seed(2)
    layers = [L.Embedding(11, 4, mask_zero=mask_zero), L.Dense(6, "tanh"), L.Dense(11)]
    return keras.Sequential([keras.Input((5,), dtype="int32"), *layers])


def evaluated(model: keras.Model, loss, x, y) -> float:
    """Returns what Keras' evaluation of one batch has as its loss."""
    model.compile(loss=loss)
    return model.evaluate(x, y, batch_size=len(x), verbose=0)


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("form", ["default", "mean", "none", "function"])
def test_losses_of_tokens_are_averaged_as_in_training(form, mask_zero):
    model, tokens = of_tokens(mask_zero), TOKENS.copy()
    tokens[:, 3:] *= Y[:, None]
    trained = evaluated(model, CLASSES, tokens, NEXT)
    loss = {
        "default": None,
        "mean": CLASSES,
        "none": losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None),
        "function": lambda y, z: keras.ops.sparse_categorical_crossentropy(y, z, from_logits=True),
    }[form]
    assert measure.gradient_flow(model, (tokens, NEXT), loss=loss).loss == pytest.approx(trained, rel=1e-5)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean", None])
def test_the_reduction_of_a_keras_loss_does_not_matter(reduction):
    model, y = classifier(1), Y.astype("float32")[:, None]
    wanted = evaluated(model, losses.BinaryCrossentropy(from_logits=True), X, y)
    loss = losses.BinaryCrossentropy(from_logits=True, reduction=reduction)
    objective = Objective(model, loss)
    assert objective.losses(objective.params(), X, Y[:, None]).shape == (23,)
    assert measure.gradient_flow(model, (X, y), loss=loss, batch_size=5).loss == pytest.approx(wanted, rel=1e-5)
    kernels = sparse_lib.sparse_kernels(model)
    plain = lambda y, z: losses.binary_crossentropy(y, z, from_logits=True)  # noqa: E731
    ours, theirs = (
        oneshot.SNIP(sparsity=0.4).masks(Objective(model, each), kernels, [(X, y)]) for each in (loss, plain)
    )
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_exact_hessian_in_float64_takes_keras_losses():
    model = classifier(3)
    subspace, y = curvature.Subspace.all(model), RANDOM.integers(0, 3, 23)
    batches = curvature.Batches.of((X, y), 10)

    def matrix(loss):
        objective = Objective(model, loss)
        return curvature.hessian(objective, objective.params(), batches, subspace, structure="never").matrix

    np.testing.assert_allclose(matrix(CLASSES), matrix(None), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="model or its loss converts float64"):
        matrix(lambda y, z: CLASSES.call(y, tf.cast(z, tf.float32)))


def test_tokens_have_a_hessian_and_a_path():
    model = of_tokens()
    values = [v.numpy() for v in model.trainable_variables]
    path = measure.interpolation(model, values, values, (TOKENS, NEXT), loss=CLASSES, points=3, batch_size=7)
    right = model.predict(TOKENS, verbose=0).argmax(-1) == NEXT
    np.testing.assert_allclose(path.accuracies, right.mean(), rtol=1e-6)
    assert measure.trace(model, (TOKENS, NEXT), precision=0.5).value != 0


@pytest.mark.parametrize(
    ("activation", "loss", "labels", "threshold"),
    [
        (None, losses.BinaryCrossentropy(from_logits=True), (0, 1), 0.0),
        ("sigmoid", losses.BinaryCrossentropy(), (0, 1), 0.5),
        ("sigmoid", losses.binary_crossentropy, (0, 1), 0.5),
        ("sigmoid", lambda y, z: losses.binary_crossentropy(tf.cast(y, tf.float32), z), (0, 1), 0.5),
        (None, lambda y, z: losses.binary_crossentropy(tf.cast(y, tf.float32), z, from_logits=True), (0, 1), 0.0),
        (None, losses.Hinge(), (-1, 1), 0.0),
        (None, losses.MeanSquaredError(), (0, 1), 0.5),
    ],
)
@pytest.mark.parametrize("is_column", [True, False])
def test_one_output_decides_between_two_classes(activation, loss, labels, threshold, is_column):
    model = classifier(1, activation)
    y = np.where(Y == 1, labels[1], labels[0])
    y = y[:, None] if is_column or not isinstance(loss, losses.Loss) else y
    values = [v.numpy() for v in model.trainable_variables]
    path = measure.interpolation(model, values, [-v for v in values], (X, y), loss=loss, points=2, batch_size=9)
    right = (model.predict(X, verbose=0)[:, 0] > threshold) == (Y == 1)
    assert path.accuracies[path.coefficients.index(0.0)] == pytest.approx(right.mean())
    assert 0 < right.mean() < 1


def test_other_targets_of_classifiers():
    several = classifier(4)
    values = [v.numpy() for v in several.trainable_variables]

    def accuracy(y, loss):
        return measure.interpolation(several, values, values, (X, y), loss=loss, points=2).accuracies[0]

    classes, scores = RANDOM.integers(0, 4, 23), several.predict(X, verbose=0)
    one_hot = np.eye(4, dtype="float32")[classes]
    right = np.mean(scores.argmax(-1) == classes)
    assert accuracy(one_hot, losses.CategoricalCrossentropy(from_logits=True)) == pytest.approx(right)
    many = RANDOM.integers(0, 2, (23, 4))
    labels = np.mean((scores > 0) == (many == 1))
    assert accuracy(many, losses.BinaryCrossentropy(from_logits=True)) == pytest.approx(labels)
    with pytest.raises(ValueError, match="takes class indices, .*CategoricalCrossentropy"):
        accuracy(one_hot, None)
    with pytest.raises(ValueError, match="at least two outputs: give loss=keras.losses.BinaryCrossentropy"):
        measure.gradient_flow(classifier(1), (X, Y))
    # Numbers are no classes.
    line = [v.numpy() for v in classifier(1).trainable_variables]
    found = measure.interpolation(classifier(1), line, line, (X, X[:, :1]), loss=losses.MeanSquaredError(), points=2)
    assert np.isnan(found.accuracies).all() and np.isfinite(found.losses).all()


def test_losses_that_are_none_are_refused():
    model = classifier(1)
    for loss, message in (
        (losses.MeanSquaredError, r"class MeanSquaredError: give an instance, MeanSquaredError\(\)"),
        ("mse", "The loss is 'mse': give a Keras loss"),
        (lambda y, z: (z - tf.cast(y, tf.float32)) ** 2, r"returned shape \(23, 23\) for outputs of shape \(23, 1\)"),
        (lambda y, z: tf.reduce_mean(z), r"returned shape \(\) .* do not reduce over the batch"),
    ):
        with pytest.raises(ValueError, match=message):
            measure.gradient_flow(model, (X, Y), loss=loss)
    with pytest.raises(ValueError, match="takes a Keras model first"):
        Objective(losses.MeanSquaredError(), model)


@pytest.mark.parametrize("form", ["list", "dataset"])
def test_batches_padded_to_other_lengths_are_taken_as_they_are(form):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((None,), dtype="int32"), L.Embedding(11, 4), L.GlobalAveragePooling1D(), L.Dense(2)]
    )
    rows = [(TOKENS[:10, :3], Y[:10]), (TOKENS[10:14], Y[10:14]), (TOKENS[14:, :2], Y[14:])]
    wanted = sum(len(y) * float(CLASSES(y, model(x))) for x, y in rows) / 23
    data = rows
    if form == "dataset":
        specs = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None,), tf.int64)
        data = tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=specs)
    batches = curvature.Batches.of(data, 6)
    assert [x.shape[0] for x, _ in batches] == [6, 4, 4, 6, 3]
    assert len(batches) == 5
    assert measure.gradient_flow(model, data, batch_size=6).loss == pytest.approx(wanted, rel=1e-5)
