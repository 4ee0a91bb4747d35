"""The same masked training in idiomatic PyTorch and JAX; both are optional."""

from collections.abc import Callable

import numpy as np

from benchmarks.cases import BATCH, RATES, WEIGHT_DECAY
from sparse_lib.experiment.data import Split


def torch_lenet5(train: Split, masks: list[np.ndarray], chunk: int) -> Callable[[np.ndarray], None]:
    """Returns a masked LeNet5 training loop in PyTorch: channels-last, data in memory, masked after every step.

    Args:
      train: training data.
      masks: boolean masks of the five kernels, in the layout of Keras.
      chunk: steps per call (count).

    Returns:
      A function that trains on the examples of given indices, [chunk, batch].
    """
    import torch
    from torch import nn

    torch.set_num_threads(2)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    kernels = [p for p in model.parameters() if p.dim() > 1]
    # Keras: height, width, in, out; in, out. PyTorch: out, in, height, width; out, in.
    layouts = [m.transpose(3, 2, 0, 1) if m.ndim == 4 else m.T for m in masks]
    kept = [torch.from_numpy(np.ascontiguousarray(m)).float() for m in layouts]
    others = [p for p in model.parameters() if p.dim() == 1]
    decay = 2 * WEIGHT_DECAY["LeNet5"]
    optimizer = torch.optim.SGD(
        [{"params": kernels, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}],
        lr=RATES["LeNet5"],
        momentum=0.9,
    )
    images = torch.from_numpy(train.images.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(train.labels.astype(np.int64))
    loss_of = nn.CrossEntropyLoss()

    def train_chunk(indices: np.ndarray) -> None:
        for row in torch.from_numpy(indices[:chunk].astype(np.int64)):
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(images[row]), labels[row]).backward()
            with torch.no_grad():
                torch._foreach_mul_([k.grad for k in kernels], kept)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_mul_(kernels, kept)

    return train_chunk


def jax_mlp(train: Split, masks: list[np.ndarray], chunk: int) -> Callable[[np.ndarray], None]:
    """Returns a masked MLP training loop in JAX: `lax.scan` over the steps of a call, parameters donated.

    Args:
      train: training data.
      masks: boolean masks of the three kernels.
      chunk: steps per call (count).

    Returns:
      A function that trains on the examples of given indices, [chunk, batch].
    """
    import jax
    import jax.numpy as jnp

    images, labels = jnp.asarray(train.images.reshape(len(train), -1)), jnp.asarray(train.labels)
    kept = [jnp.asarray(m) for m in masks]
    rng = np.random.default_rng(0)
    kernels = [jnp.asarray(rng.normal(0, 0.05, m.shape).astype(np.float32) * m) for m in masks]
    biases = [jnp.zeros(m.shape[1], jnp.float32) for m in masks]
    parameters = (kernels, biases)
    rate, decay = RATES["MLP"], WEIGHT_DECAY["MLP"]

    def loss_of(parameters: tuple, x: jax.Array, y: jax.Array) -> jax.Array:
        kernels, biases = parameters
        for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
            x = jax.nn.relu(x @ kernel + bias)
        logits = x @ kernels[-1] + biases[-1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)
        return -picked.mean() + decay * sum((k**2).sum() for k in kernels)

    def apply_masks(tree: tuple) -> tuple:
        return [jnp.where(m, k, 0.0) for m, k in zip(kept, tree[0], strict=True)], tree[1]

    def step(state: tuple, row: jax.Array) -> tuple:
        parameters, momentum = state
        loss, gradient = jax.value_and_grad(loss_of)(parameters, images[row], labels[row])
        momentum = jax.tree.map(lambda m, g: 0.9 * m - rate * g, momentum, apply_masks(gradient))
        return (apply_masks(jax.tree.map(lambda p, m: p + m, parameters, momentum)), momentum), loss

    run = jax.jit(lambda state, rows: jax.lax.scan(step, state, rows), donate_argnums=0)
    state = [(parameters, jax.tree.map(jnp.zeros_like, parameters))]

    def train_chunk(indices: np.ndarray) -> None:
        state[0], losses = run(state[0], jnp.asarray(indices[:chunk].reshape(chunk, BATCH)))
        losses.block_until_ready()

    return train_chunk
