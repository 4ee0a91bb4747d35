"""Signal propagation through sparse networks at initialisation."""

from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from analysis.similarity import cka
from sparse_lib import initializers, selection
from sparse_lib.api import sparse_kernels
from sparse_lib.experiment.networks import MLP, LeNet5, Style

NETWORKS = {"lenet5": LeNet5(), "mlp": MLP()}
INITS = ("dense", "layer_scaled", "unit_scaled")
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
# Keeps the variance through ReLU layers (He et al. 2015); the paper's choice for this measurement.
_METHOD, _SCALE = "fanin_normal", 2.0


def signal(
    network: str = "lenet5",
    *,
    sparsities: Sequence[float] = SPARSITIES,
    input_shape: Sequence[int] = (28, 28, 3),
    examples: int = 500,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Measures the signal of normal noise at the outputs of networks with random masks.

    The masks have units of very different fan-in, as in trained networks: the weights of output unit j of a layer have
    scores uniform in (0, j), and the lowest scores of the layer are active, so that the fan-in falls like 1 / j. The
    dense initialisation gives all units the variance for the dense fan-in, and the signal fades; scaling by the density
    of the layer corrects the mean over the units; the sparsity-aware initialisation takes the fan-in of each unit
    (arXiv 2010.03533, section 3.1).

    Args:
      network: `lenet5` or `mlp`, without biases and normalisation at the start.
      sparsities: sparsity of every layer (fraction).
      input_shape: height, width, channels (pixels); 28 x 28 x 3 as in the paper's code.
      examples: inputs with independent standard normal pixels (count); 500 in the paper's code.
      repeats: draws of masks, weights and inputs (count); 3 in the paper's code.
      seed: of all draws.

    Returns:
      One row per initialisation, sparsity and repeat: network, init, sparsity, repeat, `logit_std`, the standard
      deviation of all logits, and `unit_std`, the mean over the units of the hidden dense layers of their standard
      deviation over the inputs.
    """
    model = NETWORKS[network].build(tuple(input_shape), 10, Style())
    kernels = list(sparse_kernels(model).values())
    rows = []
    for repeat in range(repeats):
        images = np.random.default_rng([seed, repeat]).normal(size=(examples, *input_shape)).astype(np.float32)
        for sparsity in sparsities:
            masks = [uneven_mask(k.shape, sparsity, (seed, repeat, i)) for i, k in enumerate(kernels)]
            for init in INITS:
                for index, (kernel, mask) in enumerate(zip(kernels, masks, strict=True)):
                    kernel.assign(_initial_values(init, mask, (seed * 1_000 + repeat, index)))
                rows.append((network, init, sparsity, repeat, *_signal_deviations(model, images)))
    return pd.DataFrame(rows, columns=["network", "init", "sparsity", "repeat", "logit_std", "unit_std"])


def uneven_mask(shape: Sequence[int], sparsity: float, seed: Sequence[int]) -> tf.Tensor:
    """Draws a mask whose fan-ins fall like 1 / j over the output units j.

    Args:
      shape: of the kernel; the last axis are the output units.
      sparsity: of the mask (fraction).
      seed: of the scores.

    Returns:
      Boolean mask of that shape.
    """
    scores = np.random.default_rng([*seed, 1]).random(tuple(shape))
    scores *= np.arange(1, shape[-1] + 1)
    return selection.top_k_mask(tf.constant(-scores), round(scores.size * (1 - sparsity)))


def _initial_values(init: str, mask: tf.Tensor, seed: Sequence[int]) -> tf.Tensor:
    if init == "unit_scaled":
        return initializers.unit_scaled(mask, method=_METHOD, scale=_SCALE, seed=seed)
    if init == "layer_scaled":
        return initializers.layer_scaled(mask, method=_METHOD, scale=_SCALE, seed=seed)
    dense = initializers.layer_scaled(tf.ones_like(mask), method=_METHOD, scale=_SCALE, seed=seed)
    return selection.on_mask(mask, dense)


def _signal_deviations(model: keras.Model, images: np.ndarray) -> tuple[float, float]:
    outputs = cka.activations(model, images)
    *hidden, logits = outputs
    units = [outputs[name].std(0) for name in hidden if name.startswith("dense")]
    return float(outputs[logits].std()), float(np.mean(np.concatenate(units)))
