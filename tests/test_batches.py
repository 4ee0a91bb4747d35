"""Batches: every example once, the same at every visit, at most two shapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.batches import Batches

X = np.arange(22, dtype=np.float32).reshape(11, 2)
Y = np.arange(11)


def uneven():
    """A generator of batches of 3, 1, 5 and 2."""
    for start, stop in [(0, 3), (3, 4), (4, 9), (9, 11)]:
        yield X[start:stop], Y[start:stop]


class Sequence(keras.utils.PyDataset):
    """Batches by number, as Keras' own data loaders give them; without an end of its own."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(4 * (index % 3), 4 * (index % 3) + 4)
        return X[rows], Y[rows]


SOURCES = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: (tf.constant(X), tf.constant(Y)),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(3),
    "uneven list": lambda: list(uneven()),
    "generator": uneven,
    "keras": Sequence,
    "list of lists": lambda: [[X[:6], Y[:6]], [X[6:], Y[6:]]],
}


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
@pytest.mark.parametrize("source", SOURCES)
def test_every_example_once_at_every_visit(source, batch_size):
    batches = Batches.of(SOURCES[source](), batch_size)
    assert batches.examples == 11
    assert len(batches) == -(-11 // batch_size)
    for _ in range(2):
        visited = list(batches)
        assert all(isinstance(part, tf.Tensor) for pair in visited for part in pair)
        sizes = [len(x) for x, _ in visited]
        assert set(sizes[:-1]) <= {batch_size} and sizes[-1] <= batch_size
        np.testing.assert_array_equal(np.concatenate([x for x, _ in visited]), X)
        np.testing.assert_array_equal(np.concatenate([y for _, y in visited]), Y)


def test_inputs_may_be_structures():
    data = ({"a": X, "b": X[:, :1]}, Y)
    for batches in (
        Batches.of(data, 4),
        Batches.of(tf.data.Dataset.from_tensor_slices(data).batch(5), 4),
        Batches.of([({"a": X[:2], "b": X[:2, :1]}, Y[:2]), ({"a": X[2:], "b": X[2:, :1]}, Y[2:])], 4),
    ):
        assert batches.examples == 11
        assert [(x["a"].shape, x["b"].shape) for x, _ in batches] == [((4, 2), (4, 1))] * 2 + [((3, 2), (3, 1))]
        np.testing.assert_array_equal(np.concatenate([x["b"] for x, _ in batches]), X[:, :1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: (X, Y[:5]), "equally many"),
        (lambda: (X[:0], Y[:0]), "not 0"),
        (lambda: (X, Y, Y), "tuple of 3"),
        (lambda: [X, Y], "list"),
        (list, "list"),
        (lambda: 3, "int"),
        (lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(3).repeat(), "infinite"),
        (lambda: tf.data.Dataset.from_tensor_slices(X).batch(3), r"pass \(x, y\)"),
        (lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(3).take(0), "empty"),
        (lambda: tf.data.Dataset.from_tensor_slices((X, Y)), r"single examples: give batches, `dataset.batch\(n\)`"),
    ],
)
def test_unusable_data(data, message):
    with pytest.raises(ValueError, match=message):
        Batches.of(data(), 4)


def test_batch_size_of_none():
    with pytest.raises(ValueError, match="at least 1"):
        Batches.of((X, Y), 0)


def test_batches_are_taken_as_they_are():
    batches = Batches.of((X, Y), 4)
    assert Batches.of(batches, 7) is batches
