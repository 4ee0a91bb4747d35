"""Products with active weights, against the dense operations of TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.execution import library, products

DTYPE = tf.float64


def _mask(rng, shape, density):
    mask = rng.random(shape) < density
    if 0 < density < 1:
        mask[..., 0] &= rng.random(shape[:-1]) < 0.5
        mask.reshape(-1, shape[-1])[rng.integers(0, mask.size // shape[-1])] = False
    return mask


def _dense_kernel(values, index, shape):
    flat = tf.scatter_nd(index[:, None], values, [int(np.prod(shape))])
    return tf.reshape(flat, shape)


def _dilate(kernel, dilations):
    """Returns the kernel with zeros between its taps: TensorFlow has no gradients of dilated convolutions on CPUs."""
    height, width, channels, outputs = kernel.shape
    stuffed = tf.pad(
        kernel[:, None, :, None], [[0, 0], [0, dilations[0] - 1], [0, 0], [0, dilations[1] - 1], [0, 0], [0, 0]]
    )
    stuffed = tf.reshape(stuffed, [height * dilations[0], width * dilations[1], channels, outputs])
    return stuffed[: (height - 1) * dilations[0] + 1, : (width - 1) * dilations[1] + 1]


def _cases(count):
    """Random convolutions: sizes, strides, paddings, dilations and densities that are no multiple of anything."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        kernel = [int(n) for n in rng.integers(1, 5, 2)]
        dilations = [int(n) for n in rng.integers(1, 3, 2)] if seed % 3 == 0 else [1, 1]
        strides = [int(n) for n in rng.integers(1, 4, 2)] if dilations == [1, 1] else [1, 1]
        if seed % 5 == 0:
            kernel, strides = [1, 1], [1 + seed % 2, 1 + seed % 2]
        size = [int(n) for n in rng.integers(8, 30, 2)]
        batch, channels, outputs = int(rng.integers(1, 37)), int(rng.integers(1, 20)), int(rng.integers(1, 20))
        density = [0.0, 1.0, 0.1, 0.3, 0.6][int(rng.integers(0, 5))]
        yield pytest.param(
            seed,
            [batch, *size, channels],
            [*kernel, channels, outputs],
            density,
            {"strides": strides, "padding": ["same", "valid"][seed % 2], "dilations": dilations},
            id=f"{seed}-{kernel}-{strides}-{dilations}-{density}",
        )


def _gradients(function, x, values, upstream):
    with tf.GradientTape() as tape:
        tape.watch([x, values])
        y = function(x, values)
    return [y, *tape.gradient(y, [x, values], upstream)]


def _check_close(actual, expected, tolerance=1e-10):
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize(("seed", "shape", "kernel", "density", "options"), [*_cases(30)])
def test_convolution_and_its_gradients(seed, shape, kernel, density, options):
    rng = np.random.default_rng(seed)
    structure = products.find_structure(_mask(rng, kernel, density))
    x = tf.constant(rng.normal(size=shape), DTYPE)
    values = tf.constant(rng.normal(size=structure.index.shape), DTYPE)

    def sparse(x, values):
        return products.conv2d(x, values, structure, kernel_size=kernel[:2], **options)

    def dense(x, values):
        w = _dense_kernel(values, structure.index, kernel)
        return tf.nn.conv2d(x, _dilate(w, options["dilations"]), options["strides"], options["padding"].upper())

    upstream = tf.constant(rng.normal(size=dense(x, values).shape), DTYPE)
    _check_close(_gradients(sparse, x, values, upstream), _gradients(dense, x, values, upstream))


@pytest.mark.parametrize("seed", range(20))
def test_matmul_and_its_gradients(seed):
    rng = np.random.default_rng(seed)
    batch, inputs, outputs = (int(n) for n in rng.integers(1, 200, 3))
    structure = products.find_structure(_mask(rng, [inputs, outputs], [0.0, 1.0, 0.05, 0.2, 0.5][seed % 5]))
    x = tf.constant(rng.normal(size=[batch, inputs]), DTYPE)
    values = tf.constant(rng.normal(size=structure.index.shape), DTYPE)
    upstream = tf.constant(rng.normal(size=[batch, outputs]), DTYPE)
    sparse = _gradients(lambda x, v: products.matmul(x, v, structure), x, values, upstream)
    dense = _gradients(lambda x, v: x @ _dense_kernel(v, structure.index, [inputs, outputs]), x, values, upstream)
    _check_close(sparse, dense)


def test_library_is_there():
    assert library.available(), library.reason()
