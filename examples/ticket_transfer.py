"""Finds a lottery ticket on one data set and trains it on another.

A network is pruned gradually on the digits 0 to 4. Its mask and its initial weights are the ticket, which is trained on
the digits 5 to 9; a shuffled mask on the same initial weights is the baseline.

python ticket_transfer.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sparse_lib
from sparse_lib.masks import Masks

EPOCHS, BATCH, SPARSITY = 20, 32, 0.9

images, labels = load_digits(return_X_y=True)
images = (images / 16.0).astype("float32")


def split_digits(low: int) -> list[np.ndarray]:
    """Splits the five digits from `low` on into training and test images and labels."""
    chosen = (labels >= low) & (labels < low + 5)
    return train_test_split(images[chosen], labels[chosen] - low, test_size=0.3, random_state=0)


def build_network() -> keras.Model:
    """Builds the network, with the same initial weights every time."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu", name="dense1"),
            keras.layers.Dense(64, activation="relu", name="dense2"),
            keras.layers.Dense(5, name="logits"),
        ]
    )


def train(model: keras.Model, masks: Masks, updater: sparse_lib.Updater, low: int) -> float:
    """Trains on the five digits from `low` on and returns the test accuracy."""
    x_train, x_test, y_train, y_test = split_digits(low)
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), masks, updater)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model.evaluate(x_test, y_test, verbose=0)[1]


steps = EPOCHS * (len(split_digits(0)[0]) // BATCH)
target = sparse_lib.PolynomialSparsity(0.0, SPARSITY, begin=steps // 4, end=3 * steps // 4)
pruned = build_network()
found = sparse_lib.sparsify(pruned, sparsity=0.0, distribution="uniform")
prune = sparse_lib.Prune(sparsity=target, begin_step=steps // 4, end_step=3 * steps // 4, frequency=10)
print(f"pruned to {SPARSITY:.0%} on 0 to 4:          {train(pruned, found, prune, 0):.3f}")

for name, shuffle in (("ticket", False), ("shuffled ticket", True)):
    model = build_network()
    ticket = sparse_lib.sparsify(model, masks=found)
    if shuffle:
        ticket.assign(ticket.shuffled(seed=0))
    print(f"{name} trained on 5 to 9: {train(model, ticket, sparse_lib.Static(), 5):.3f}")
