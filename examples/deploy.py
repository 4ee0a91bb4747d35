"""Deploying pruned networks: removing dead channels, storing sparse blocks, and measuring both with LiteRT.

python deploy.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sparse_lib
from sparse_lib import deployment

EPOCHS, BATCH = 6, 64

images, labels = load_digits(return_X_y=True)
images = (images / 16.0).reshape(-1, 8, 8, 1).astype("float32")
x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)


def train_pruned(structure: sparse_lib.Structure, sparsity: float) -> keras.Model:
    """Trains a network while pruning its smallest weights, or units of the structure, to the given sparsity."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv1"),
            keras.layers.Conv2D(64, 3, activation="relu", name="conv2"),
            keras.layers.Flatten(),
            keras.layers.Dense(1024, activation="relu", name="dense1"),
            keras.layers.Dense(512, activation="relu", name="dense2"),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    masks = sparse_lib.sparsify(model, 0.0, structure=structure, exclude=["conv1", "logits"])
    end = 2 * EPOCHS * len(x_train) // BATCH // 3 // 10 * 10
    target = sparse_lib.PolynomialSparsity(initial=0.0, final=sparsity, begin=0, end=end)
    updater = sparse_lib.Prune(sparsity=target, frequency=10, end_step=end)
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.Adam(), masks, updater)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x_train, y_train, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


channels = train_pruned(sparse_lib.Channel(), 0.5)
blocks = train_pruned(sparse_lib.Block(4, 1), 0.9)
smaller = deployment.remove_dead_channels(channels)
print(smaller.report(), "\n")

kinds = {
    "half the channels zero": (channels, False),
    "the same, removed": (smaller.model, False),
    "90% in blocks 4x1, stored dense": (blocks, False),
    "the same, stored sparse": (blocks, True),
}
files = {name: deployment.convert(model, sparse=sparse) for name, (model, sparse) in kinds.items()}
print(deployment.latency_table(deployment.latency(files, runs=200)), "\n")

for name, (model, _) in kinds.items():
    found = deployment.outputs(files[name], x_test)
    difference = np.abs(found - model.predict(x_test, verbose=0)).max() / np.abs(found).max()
    assert difference < 1e-5, "LiteRT computes something else"
    print(f"{name:<31}  test accuracy {(found.argmax(-1) == y_test).mean():.3f}")
