"""Similarity of representations: linear centred kernel alignment (CKA) of activations."""

from collections.abc import Mapping

import keras
import numpy as np
import pandas as pd

from sparse_lib._utils.errors import InputError


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Linear CKA of two representations of the same examples (Kornblith et al. 2019, section 3).

    CKA(X, Y) = || Y^T X ||_F^2 / (|| X^T X ||_F || Y^T Y ||_F) with centred columns

    CKA is 1 for representations that differ by a rotation, a scale and a shift. With more features than examples it is
    biased towards 1: use more examples than units.

    Args:
      one: features [n, p].
      other: features [n, q] of the same examples.

    Returns:
      A number from 0 to 1; NaN if a representation is constant.

    Raises:
      InputError: if the numbers of examples differ.
    """
    if one.ndim != 2 or other.ndim != 2 or len(one) != len(other):
        raise InputError(f"Give features [n, units] of the same examples; got shapes {one.shape} and {other.shape}.")
    x, y = (_center(side) for side in (one, other))
    if min(x.shape[1], y.shape[1]) > len(x):
        # The same numbers from the smaller Gram matrices: || Y^T X ||^2 = <X X^T, Y Y^T>.
        k, l_ = x @ x.T, y @ y.T
        both, first, second = np.sum(k * l_), np.linalg.norm(k), np.linalg.norm(l_)
    else:
        both, first, second = np.linalg.norm(y.T @ x) ** 2, np.linalg.norm(x.T @ x), np.linalg.norm(y.T @ y)
    return float(both / (first * second)) if first and second else float("nan")


def activations(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the outputs of all layers with weights, in inference mode.

    Args:
      model: a functional or sequential network.
      images: [n, ...].

    Returns:
      Features [n, units] by layer name; each channel at each position is a feature.
    """
    layers = [layer for layer in model.layers if layer.weights]
    probe = keras.Model(model.inputs[0], [layer.output for layer in layers])
    outputs = probe(images, training=False)
    return {layer.name: np.reshape(out, (len(images), -1)) for layer, out in zip(layers, outputs, strict=True)}


def compare(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Linear CKA of every layer of one network with every layer of another.

    Args:
      one: features [n, units] by layer name, from `activations`.
      other: those of the other network on the same examples.

    Returns:
      CKA with the layers of one network as rows and of the other as columns.
    """
    values = [[linear_cka(x, y) for y in other.values()] for x in one.values()]
    return pd.DataFrame(values, index=list(one), columns=list(other))


def _center(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features - features.mean(0)
