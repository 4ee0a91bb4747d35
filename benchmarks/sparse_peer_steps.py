"""What `sparse_peers` compares: random layers, and the steps of other libraries, each imported where it runs."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

BATCH = 128
MLP_SIZES = (784, 300, 100, 10)
_RATE, _MOMENTUM = 0.01, 0.9
# Steps per call of a compiled loop (count).
_CHUNK = 50


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer without bias.

    Attributes:
      inputs: shape of an example.
      kernel: shape of the kernel; of four axes for a convolution with padding.
    """

    inputs: tuple[int, ...]
    kernel: tuple[int, ...]

    @property
    def is_convolution(self) -> bool:
        """Whether it is no matrix product."""
        return len(self.kernel) == 4

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns random inputs, gradient of the outputs, and kernel."""
        rng = np.random.default_rng(0)
        shapes = (BATCH, *self.inputs), (BATCH, *self.inputs[:-1], self.kernel[-1]), self.kernel
        x, dy, kernel = (rng.standard_normal(shape, np.float32) for shape in shapes)
        return x, dy, kernel

    def mask(self, sparsity: float) -> np.ndarray:
        """Returns a random mask."""
        return np.random.default_rng(1).random(self.kernel) >= sparsity


LAYERS = {
    "Dense 784 to 300": Layer((784,), (784, 300)),
    "Dense 1024 to 1024": Layer((1024,), (1024, 1024)),
    "Conv2D 3x3, 16x16, 64 to 64": Layer((16, 16, 64), (3, 3, 64, 64)),
}


def torch_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of PyTorch's dense product."""
    del sparsity
    import torch

    torch.set_num_threads(1)
    x, dy, kernel = map(torch.from_numpy, layer.arrays())
    if layer.is_convolution:
        # The layouts that PyTorch prefers on a CPU.
        x, dy = (t.permute(0, 3, 1, 2) for t in (x, dy))
        kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    else:
        kernel = kernel.T.contiguous()
    x.requires_grad_()
    kernel.requires_grad_()

    def both() -> object:
        functional = torch.nn.functional
        y = functional.conv2d(x, kernel, padding=1) if layer.is_convolution else functional.linear(x, kernel)
        return torch.autograd.grad(y, [x, kernel], dy)

    return both


def torch_csr_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of PyTorch's CSR tensor."""
    import torch

    torch.set_num_threads(1)
    x, dy, kernel = map(torch.from_numpy, layer.arrays())
    weights = (kernel.T * torch.from_numpy(layer.mask(sparsity).T)).to_sparse_csr().requires_grad_()
    x.requires_grad_()

    def both() -> object:
        return torch.autograd.grad((weights @ x.T).T, [x, weights], dy)

    return both


def sparselab_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of sparselab's layer."""
    import sparselab
    import torch

    torch.set_num_threads(1)
    x, dy, _ = map(torch.from_numpy, layer.arrays())
    module = sparselab.SparseLinear(*layer.kernel, bias=False, sparsity=sparsity)
    x.requires_grad_()

    def both() -> None:
        x.grad = None
        module.zero_grad()
        module(x).backward(dy)

    return both


def jax_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of JAX's dense product."""
    del sparsity
    import jax

    x, dy, kernel = map(jax.numpy.asarray, layer.arrays())

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if layer.is_convolution:
            layout = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return x @ kernel

    return _jax_both(product, x, kernel, dy)


def jax_bcoo_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of JAX's BCOO matrix."""
    import jax
    from jax.experimental import sparse

    x, dy, kernel = layer.arrays()
    mask = layer.mask(sparsity).T
    places = jax.numpy.asarray(np.argwhere(mask))

    def product(x: jax.Array, values: jax.Array) -> jax.Array:
        weights = sparse.BCOO((values, places), shape=mask.shape, indices_sorted=True, unique_indices=True)
        return (weights @ x.T).T

    return _jax_both(product, *map(jax.numpy.asarray, (x, kernel.T[mask], dy)))


def _jax_both(product: Callable, x: object, weights: object, dy: object) -> Callable[[], object]:
    import jax

    @jax.jit
    def both(x: jax.Array, weights: jax.Array) -> tuple:
        y, pull_back = jax.vjp(product, x, weights)
        return y, pull_back(dy)

    return lambda: jax.block_until_ready(both(x, weights))


def keras_mlp(sparsity: float) -> Callable[[], object]:
    """Returns a chunk of dense Keras steps, which XLA compiles."""
    del sparsity
    import tensorflow as tf

    from benchmarks import cases

    train = cases.make_noise(_CHUNK * BATCH)
    steps = cases.make_dense_steps(cases.build_network("MLP"), train, _CHUNK, rate=_RATE, jit_compile=True)
    places = tf.reshape(tf.range(_CHUNK * BATCH), [_CHUNK, BATCH])

    def run() -> int:
        steps(places).numpy()
        return _CHUNK

    return run


def sparse_lib_mlp(sparsity: float) -> Callable[[], object]:
    """Returns a chunk of this suite's steps."""
    from benchmarks import cases
    from sparse_lib.execution import library

    library.use_threads(1)
    case = cases.make_masked_case(
        cases.build_network("MLP"),
        cases.make_noise(_CHUNK * BATCH),
        sparsity=sparsity,
        rate=_RATE,
        distribution="uniform",
    )

    def run() -> int:
        case.steps.run(0, _CHUNK)
        return _CHUNK

    return run


def torch_mlp(sparsity: float) -> Callable[[], object]:
    """Returns a dense training step in PyTorch."""
    del sparsity
    import torch

    return _torch_step([torch.nn.Linear(a, b) for a, b in itertools.pairwise(MLP_SIZES)])


def torch_csr_mlp(sparsity: float) -> Callable[[], object]:
    """Returns a training step in PyTorch with CSR weights, whose values the optimizer trains."""
    import torch

    class Linear(torch.nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            mask = torch.from_numpy(np.random.default_rng(1).random((outputs, inputs)) >= sparsity)
            weights = (torch.randn(outputs, inputs) / inputs**0.5 * mask).to_sparse_csr()
            self.rows, self.columns, self.size = weights.crow_indices(), weights.col_indices(), weights.shape
            self.values = torch.nn.Parameter(weights.values())
            self.bias = torch.nn.Parameter(torch.zeros(outputs))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = torch.sparse_compressed_tensor(
                self.rows, self.columns, self.values, self.size, layout=torch.sparse_csr
            )
            return (weights @ x.T).T + self.bias

    return _torch_step([Linear(a, b) for a, b in itertools.pairwise(MLP_SIZES)])


def sparselab_mlp(sparsity: float) -> Callable[[], object]:
    """Returns a training step with sparselab's layers."""
    import sparselab

    sizes = itertools.pairwise(MLP_SIZES)
    return _torch_step([sparselab.SparseLinear(a, b, sparsity=sparsity) for a, b in sizes])


def _torch_step(layers: list) -> Callable[[], object]:
    import torch

    torch.set_num_threads(1)
    first, second, third = layers
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), third)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM)
    x, y = torch.rand(BATCH, MLP_SIZES[0]), torch.randint(0, MLP_SIZES[-1], (BATCH,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def jax_mlp(sparsity: float) -> Callable[[], object]:
    """Returns a chunk of dense training steps in JAX."""
    from benchmarks import cases, peers

    del sparsity
    masks = [np.ones(shape, bool) for shape in itertools.pairwise(MLP_SIZES)]
    train = cases.make_noise(_CHUNK * BATCH)
    loop = peers.jax_mlp(train, masks, _CHUNK)
    places = np.arange(_CHUNK * BATCH).reshape(_CHUNK, BATCH)

    def run() -> int:
        loop(places)
        return _CHUNK

    return run
