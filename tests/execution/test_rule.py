"""The densities up to which a sparse product pays, for the layers of known networks."""

import keras
import pytest

from sparse_lib.execution import rule
from sparse_lib.execution.layer_products import ConvolutionProduct, MatrixProduct


@pytest.mark.parametrize(
    ("shape", "positions", "batch", "limit"),
    [
        # LeNet5: both convolutions are narrow; its last layers are too small.
        ((5, 5, 1, 6), 576, 128, 0.7),
        ((5, 5, 6, 16), 64, 128, 0.7),
        ((256, 120), 1, 128, 0.25),
        ((84, 10), 1, 128, 0),
        # A Wide ResNet's and a ResNet-50's.
        ((3, 3, 16, 32), 1024, 128, 0.5),
        ((1, 1, 64, 256), 3136, 8, 0.35),
        # Of unknown batch and image: as with 32 examples of one pixel.
        ((784, 300), None, None, 0.25),
        ((5, 5, 6, 16), None, None, 0),
    ],
)
def test_limits(shape, positions, batch, limit):
    product = ConvolutionProduct if len(shape) == 4 else MatrixProduct
    assert rule.find_limit(product(keras.layers.Layer()), shape, positions, batch) == limit
