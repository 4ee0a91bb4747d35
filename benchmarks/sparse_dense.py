"""A network that has no dense form: time of a step and of a mask update, and peak memory of the process.

An MLP with two hidden layers of `--units` units learns the digits of scikit-learn. It is saved and loaded, counted, and
its gradient flow is measured, since all of this has to fit, too. Times are the shortest ones.
`python -m benchmarks.sparse_dense --units 32768 --sparsity 0.999`
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

import sparse_lib
from sparse_lib import measure
from sparse_lib.layers import SparseDense, SparseLayers, UpdateMasks

_PIXELS, _CLASSES = 64, 10
# Densities of the narrow layers at both ends.
_ENDS = {"first": 0.1, "last": 0.01}
_METHODS = {"static": sparse_lib.Static, "set": sparse_lib.SET, "rigl": sparse_lib.RigL}


class StepTimes(keras.callbacks.Callback):
    """Times steps, with what callbacks before this one do in them.

    Attributes:
      seconds: one duration per step (s).
    """

    def __init__(self) -> None:
        """Starts without steps."""
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops the clock."""
        self.seconds.append(time.perf_counter() - self._start)


def make_model(units: int, sparsity: float) -> keras.Model:
    """Makes the MLP.

    Args:
      units: of each hidden layer (count).
      sparsity: of the matrix between them (fraction).

    Returns:
      The model, compiled.
    """
    model = keras.Sequential(
        [
            keras.Input((_PIXELS,)),
            SparseDense(units, _ENDS["first"], activation="relu", name="first", seed=1),
            SparseDense(units, 1 - sparsity, activation="relu", name="hidden", seed=2),
            SparseDense(_CLASSES, _ENDS["last"], name="last", seed=3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def run(units: int, sparsity: float, method: str, batch: int, epochs: int, frequency: int) -> dict[str, float]:
    """Trains, saves, loads and measures the network.

    Args:
      units: of each hidden layer (count).
      sparsity: of the matrix between them (fraction).
      method: that changes the masks, one of `_METHODS`.
      batch: examples a step (count).
      epochs: passes over the 1,500 training examples (count).
      frequency: steps between mask updates.

    Returns:
      Results by name.
    """
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    train, test = (x[:1500], y[:1500]), (x[1500:], y[1500:])
    model = make_model(units, sparsity)
    callbacks, updates, times = [], [], StepTimes()
    if method != "static":
        updater = _METHODS[method](frequency=frequency, end_step=10**6)
        callbacks, updates = [UpdateMasks(updater)], updater.schedule.steps(0, epochs * -(-len(train[0]) // batch))
    model.fit(*train, batch, epochs, verbose=0, callbacks=[*callbacks, times])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        size, loaded = path.stat().st_size, keras.models.load_model(path)
    masks, cost = SparseLayers(loaded), measure.cost(loaded)
    return {
        "dense_weights": sum(masks.sizes()),
        "active_weights": sum(masks.active()),
        "step_seconds": min(np.delete(times.seconds, [0, *updates])),
        "update_seconds": min((times.seconds[i] for i in updates), default=0.0),
        "accuracy": loaded.evaluate(*test, verbose=0)[1],
        "gradient_norm": measure.gradient_flow(loaded, test, batch_size=batch).norm,
        "inference_flops": cost.inference_flops,
        "file_megabytes": size / 1e6,
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    """Prints the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=32768)
    parser.add_argument("--sparsity", type=float, default=0.999)
    parser.add_argument("--method", choices=_METHODS, default="rigl")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--frequency", type=int, default=10)
    print(json.dumps(run(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
