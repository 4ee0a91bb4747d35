"""Matrices of known spectrum, and small float64 networks, for the curvature tests."""

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse.linalg import LinearOperator, aslinearoperator

layers = keras.layers

_N = 200
SPECTRA = {
    "evenly spread": np.linspace(-3, 10, _N),
    "few outliers": np.r_[np.linspace(-0.1, 0.1, _N - 8), np.geomspace(1, 50, 8)],
    "repeated at both ends": np.r_[[-2.0] * 4, np.linspace(-1, 1, _N - 8), [10.0] * 4],
    "repeated close to others": np.r_[np.linspace(-3, 9.9, _N - 3), [10.0] * 3],
    "clustered": np.r_[np.linspace(0, 1, _N - 6), 10 + 1e-4 * np.arange(6)],
    "two values": np.r_[np.zeros(_N - 5), [10.0] * 5],
    "low rank": np.r_[np.zeros(_N - 3), 1.0, 2.0, 3.0],
    "negative": -np.linspace(1, 2, _N),
    "identity": np.ones(_N),
    "zero": np.zeros(_N),
}


def matrix_of(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2


def operator_of(eigenvalues, seed=0) -> LinearOperator:
    """The same as an operator."""
    return aslinearoperator(matrix_of(eigenvalues, seed))


def dense(operator):
    """The matrix of an operator, by blocks of four vectors only, for which one graph is compiled."""
    n = operator.shape[0]
    return operator.matmat(np.eye(n, n + -n % 4))[:, :n]


def _dense_chain(x):
    return layers.Dense(3)(layers.Dense(4, "tanh")(x))


def _convolutions(x):
    x = layers.Conv2D(3, 3, activation="relu", padding="same")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.SeparableConv2D(2, 2, activation="gelu")(x)
    return layers.Dense(3)(layers.Flatten()(x))


def _batch_norm(x):
    x = layers.Conv2D(2, 3, strides=2)(x)
    x = layers.BatchNormalization(moving_variance_initializer=keras.initializers.Constant(0.6))(x)
    return layers.Dense(3)(layers.Flatten()(layers.ReLU()(x)))


def _residual(x):
    x = layers.Conv2D(2, 3, padding="same")(x)
    y = layers.BatchNormalization()(layers.Conv2D(2, 3, padding="same", activation="softplus")(x))
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.add([x, y])))


def _attention(x):
    x = layers.Reshape((6, 12))(x)
    x = layers.Dense(4)(x)
    y = layers.MultiHeadAttention(2, 2)(x, x)
    x = layers.LayerNormalization()(layers.add([x, y]))
    return layers.Dense(3)(layers.Flatten()(x))


def _recurrent(x):
    return layers.Dense(3)(layers.LSTM(3)(layers.Reshape((6, 12))(x)))


NETWORKS = {
    "dense chain": ((5,), _dense_chain),
    "convolutions and max-pooling": ((6, 6, 2), _convolutions),
    "batch norm": ((6, 6, 2), _batch_norm),
    "residual": ((6, 6, 2), _residual),
    "attention and layer norm": ((6, 6, 2), _attention),
    "recurrent": ((6, 6, 2), _recurrent),
}


def network(name, dtype="float64", seed=0):
    """A small network with three outputs."""
    keras.utils.set_random_seed(seed)
    shape, body = NETWORKS[name]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        inputs = keras.Input(shape)
        return keras.Model(inputs, body(inputs))
    finally:
        keras.config.set_dtype_policy(before)


def examples(model, n=11, classes=3, seed=0):
    """Random inputs and labels of a model, as arrays."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, *model.input_shape[1:])).astype(model.compute_dtype)
    return x, rng.integers(0, classes, n)


def mean_cross_entropy(model, x, y):
    """Written once more, with nothing of the package."""
    log_p = tf.nn.log_softmax(model(x, training=False))
    return -tf.reduce_mean(tf.gather(log_p, y, axis=1, batch_dims=1))


def flat_gradient(model, x, y):
    """Gradient of the mean cross-entropy by a plain tape, as one vector."""
    with tf.GradientTape() as tape:
        loss = mean_cross_entropy(model, x, y)
    gradient = tape.gradient(loss, [v.value for v in model.trainable_variables])
    return np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradient])


def plain_hessian(model, x, y):
    """Rows of the Hessian one by one, by a plain tape over a plain tape."""
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as tape:
            loss = mean_cross_entropy(model, x, y)
        gradient = tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, variables)], axis=0)
        entries = tf.unstack(gradient)
    zero = tf.UnconnectedGradients.ZERO
    rows = [outer.gradient(entry, variables, unconnected_gradients=zero) for entry in entries]
    return np.stack([np.concatenate([np.ravel(part) for part in row]) for row in rows])


def finite_difference(model, x, y, direction, step=1e-5):
    """Central difference of the gradient along a direction; the weights are put back."""
    before = model.get_weights()
    starts = np.cumsum([0, *[int(np.prod(v.shape)) for v in model.trainable_variables]])
    gradients = []
    for sign in (1, -1):
        for v, start, stop in zip(model.trainable_variables, starts[:-1], starts[1:], strict=True):
            v.assign(v + sign * step * direction[start:stop].reshape(v.shape))
        gradients.append(flat_gradient(model, x, y))
        model.set_weights(before)
    return (gradients[0] - gradients[1]) / (2 * step)
