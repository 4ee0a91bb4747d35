"""What every test file shares: the process's devices, seeds, golden values and two tiny models."""

import gc
import logging
import os
from collections.abc import Callable

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The matrices are small, and several processes share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# XLA compiles more often here than it runs.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import keras
import pytest
import tensorflow as tf

from tests.golden_values import read_golden

LOGICAL_CPUS = 4
LEVELS = {name: logging.getLogger(name).level for name in (None, "absl")}


def _split_cpu() -> None:
    # Replicas need devices, and TensorFlow fixes its devices at the first operation. A LeNet5 step
    # on one of four parts takes as long as on the undivided CPU.
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(LOGICAL_CPUS)]
    tf.config.set_logical_device_configuration(cpu, parts)


_split_cpu()


def pytest_collection_finish() -> None:
    """Graphs are many small objects: collections are rare, and leave out what the imports made."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def seeds():
    """Starts every test from the same global seeds."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def log_levels():
    """Takes back the levels that a command line sets for its process."""
    yield
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict]:
    """Returns the reader of golden values: `golden("snip")` is `tests/golden/snip.json`."""
    return read_golden


def _mlp(seed: int) -> keras.Model:
    layers = [
        keras.Input((6,), name="features"),
        keras.layers.Dense(5, "relu", name="hidden", kernel_initializer=_glorot(seed)),
        keras.layers.Dense(3, name="logits", kernel_initializer=_glorot(seed + 1)),
    ]
    return keras.Sequential(layers, name="tiny_mlp")


def _convnet(seed: int) -> keras.Model:
    layers = [
        keras.Input((8, 8, 2), name="image"),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv", kernel_initializer=_glorot(seed)),
        keras.layers.MaxPooling2D(2, name="pool"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(3, name="logits", kernel_initializer=_glorot(seed + 1)),
    ]
    return keras.Sequential(layers, name="tiny_convnet")


def _glorot(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=seed)


@pytest.fixture
def tiny_model() -> Callable[..., keras.Model]:
    """Returns the maker of tiny classifiers with three logits.

    `tiny_model("mlp")` is 6-5-3; `tiny_model("convnet")` takes 8x8x2 images. The same seed
    gives the same weights.
    """
    makers = {"mlp": _mlp, "convnet": _convnet}

    def make(kind: str = "mlp", seed: int = 0) -> keras.Model:
        return makers[kind](seed)

    return make
