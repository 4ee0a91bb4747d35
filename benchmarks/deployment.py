"""Speed-up of sparse LiteRT files over dense ones of the same pruned model, which take turns.

python -m benchmarks.deployment
"""

import keras
import numpy as np

import sparse_lib
from sparse_lib import deployment
from sparse_lib.structures import UNSTRUCTURED, Structure

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_layers = keras.layers


def build_mlp(rows: int) -> keras.Model:
    """Builds three dense layers for a number of rows, such as the tokens of a sequence."""
    widths = (1024, 1024, 12)
    inputs = keras.Input((rows, 784) if rows > 1 else (784,))
    x = inputs
    for i, width in enumerate(widths):
        x = _layers.Dense(width, "relu" if i + 1 < len(widths) else None)(x)
    return keras.Model(inputs, x)


def build_mobilenet(size: int = 224) -> keras.Model:
    """Builds MobileNet v1 with the padding that the sparse kernels of XNNPACK need."""

    def norm(x: keras.KerasTensor) -> keras.KerasTensor:
        return _layers.ReLU(6.0)(_layers.BatchNormalization()(x))

    inputs = keras.Input((size, size, 3))
    x = norm(_layers.Conv2D(32, 3, strides=2, use_bias=False)(_layers.ZeroPadding2D(1)(inputs)))
    widths = (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
    for before, width in zip((32, *widths), widths, strict=False):
        strides = 2 if width > before > 32 else 1
        x = norm(_layers.DepthwiseConv2D(3, strides=strides, use_bias=False)(_layers.ZeroPadding2D(1)(x)))
        x = norm(_layers.Conv2D(width, 1, use_bias=False)(x))
    return keras.Model(inputs, _layers.Dense(1000)(_layers.GlobalAveragePooling2D()(x)))


def prune(model: keras.Model, structure: Structure, sparsity: float) -> None:
    """Zeroes all but the largest weights of each dense and 1x1 kernel."""
    kernels = [k for name, k in sparse_lib.sparse_kernels(model).items() if np.prod(k.shape[:-2]) == 1]
    for kernel in kernels:
        budget = structure.budget(kernel.shape, round((1 - sparsity) * np.prod(kernel.shape)))
        mask = structure.select(np.abs(kernel.numpy()), budget)
        kernel.assign(np.where(mask, kernel, 0))


def compare(title: str, model: keras.Model, structure: Structure, runs: int) -> None:
    """Prints the speed-up of the sparse file over the dense one at every sparsity."""
    files = {"dense": deployment.convert(model, sparse=False)}
    weights = model.get_weights()
    for sparsity in SPARSITIES:
        model.set_weights(weights)
        prune(model, structure, sparsity)
        files[f"{sparsity:.2f}"] = deployment.convert(model)
    print(f"{title}, {structure}\n{deployment.latency_table(deployment.latency(files, runs=runs))}\n", flush=True)


def main() -> None:
    """Prints speed-ups of dense layers on 1 and 16 rows, and of a MobileNet."""
    for structure in (UNSTRUCTURED, sparse_lib.Block(4, 1)):
        for rows in (1, 16):
            compare(f"dense layers 784-1024-1024-12, {rows} rows", build_mlp(rows), structure, runs=100)
    compare("MobileNet v1", build_mobilenet(), UNSTRUCTURED, runs=20)


if __name__ == "__main__":
    main()
