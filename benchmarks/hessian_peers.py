"""Rows of the Hessian of the benchmark networks in idiomatic PyTorch and JAX; both are optional."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sparse_lib.curvature import Subspace

RowsOf = Callable[[np.ndarray], np.ndarray]


def make_torch_rows(network: str, weights: np.ndarray, subspace: Subspace, x: np.ndarray, y: np.ndarray) -> RowsOf:
    """Returns a function for rows by `torch.func`: directional derivatives of the gradient, vectorised over rows.

    Reverse mode over the gradient does not work under `vmap` for max-pooling in PyTorch 2.13.

    Args:
      network: `LeNet5` or `MLP`.
      weights: values on the subspace; all other weights are zero.
      subspace: coordinates of the rows.
      x: images, [n, height, width, channels].
      y: labels.

    Returns:
      A function of row indices [k] that returns [k, parameters].
    """
    import torch
    from torch import func
    from torch.nn import functional

    torch.set_num_threads(2)
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    labels = torch.from_numpy(y.astype(np.int64))
    # Keras: height, width, in, out. PyTorch: out, in, height, width.
    shapes = [tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape for shape in subspace.shapes]
    places = []
    for index, shape, layout in zip(subspace.indices, subspace.shapes, shapes, strict=True):
        at = np.unravel_index(index, shape)
        moved = np.ravel_multi_index([at[i] for i in (3, 2, 0, 1)], layout) if len(shape) == 4 else index
        places.append(torch.from_numpy(moved))

    def tensors(vector: Any) -> list[Any]:
        parts = [vector[where] for where in subspace.slices]
        sizes = [int(np.prod(shape)) for shape in shapes]
        dense = [torch.zeros(n).index_put((i,), p) for n, i, p in zip(sizes, places, parts, strict=True)]
        return [d.reshape(shape) for d, shape in zip(dense, shapes, strict=True)]

    def loss(vector: Any) -> Any:
        values = tensors(vector)
        layers, z = list(zip(values[::2], values[1::2], strict=True)), images
        convolutions = 2 if network == "LeNet5" else 0
        for kernel, bias in layers[:convolutions]:
            z = functional.max_pool2d(functional.conv2d(z, kernel, bias).relu(), 2)
        z = z.flatten(2).transpose(1, 2).flatten(1)
        for kernel, bias in layers[convolutions:-1]:
            z = (z @ kernel + bias).relu()
        return functional.cross_entropy(z @ layers[-1][0] + layers[-1][1], labels)

    weights_at = torch.from_numpy(weights)

    def rows(wanted: np.ndarray) -> np.ndarray:
        units = torch.eye(len(weights))[torch.from_numpy(wanted)]
        return func.vmap(lambda unit: func.jvp(func.grad(loss), (weights_at,), (unit,))[1])(units).numpy()

    return rows


def make_jax_rows(network: str, weights: np.ndarray, subspace: Subspace, x: np.ndarray, y: np.ndarray) -> RowsOf:
    """Returns a function for rows by JAX: directional derivatives of the gradient, vectorised over rows and compiled.

    Args:
      network: `LeNet5` or `MLP`.
      weights: values on the subspace; all other weights are zero.
      subspace: coordinates of the rows.
      x: images, [n, height, width, channels].
      y: labels.

    Returns:
      A function of row indices [k] that returns [k, parameters].
    """
    import jax
    import jax.numpy as jnp

    images, labels, at = jnp.asarray(x), jnp.asarray(y), jnp.asarray(weights)

    def tensors(vector: jax.Array) -> list[jax.Array]:
        parts = [vector[where] for where in subspace.slices]
        sizes = [int(np.prod(shape)) for shape in subspace.shapes]
        dense = [jnp.zeros(n).at[i].set(p) for n, i, p in zip(sizes, subspace.indices, parts, strict=True)]
        return [d.reshape(shape) for d, shape in zip(dense, subspace.shapes, strict=True)]

    def max_pool(z: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(z, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def loss(vector: jax.Array) -> jax.Array:
        values = tensors(vector)
        layers, z = list(zip(values[::2], values[1::2], strict=True)), images
        convolutions = 2 if network == "LeNet5" else 0
        for kernel, bias in layers[:convolutions]:
            z = jax.lax.conv_general_dilated(z, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            z = max_pool(jax.nn.relu(z + bias))
        z = z.reshape(len(z), -1)
        for kernel, bias in layers[convolutions:-1]:
            z = jax.nn.relu(z @ kernel + bias)
        logits = jax.nn.log_softmax(z @ layers[-1][0] + layers[-1][1])
        return -jnp.take_along_axis(logits, labels[:, None], axis=1).mean()

    @jax.jit
    def products(units: jax.Array) -> jax.Array:
        return jax.vmap(lambda unit: jax.jvp(jax.grad(loss), (at,), (unit,))[1])(units)

    return lambda wanted: np.asarray(products(jax.nn.one_hot(wanted, len(at))))


PEERS = {"PyTorch, torch.func.vmap": make_torch_rows, "JAX, jax.vmap": make_jax_rows}
