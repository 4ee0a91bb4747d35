"""The Hessian's spectrum: eigenvalues, density and trace."""

from typing import Any

import keras

from sparse_lib import curvature
from sparse_lib.curvature.eigenpairs import Which
from sparse_lib.execution import Mode
from sparse_lib.masks import Masks
from sparse_lib.measure.problem import Loss, Problem


def top_eigenvalues(
    model: keras.Model,
    data: Any,
    k: int = 1,
    which: Which = "largest",
    *,
    masks: Masks | None = None,
    loss: Loss = None,
    batch_size: int = 1000,
    execution: Mode | None = None,
    seed: int = 0,
) -> curvature.Eigenpairs:
    """Outermost eigenvalues of the Hessian of the active weights, by Lanczos iteration.

    Args:
      model: a built model.
      data: examples, see `sparse_lib.measure`.
      k: number of eigenvalues (count).
      which: `largest`, `smallest`, or largest in `magnitude`.
      masks: of the sparse kernels, see `sparse_lib.measure`.
      loss: see `sparse_lib.measure`.
      batch_size: examples per pass (count).
      execution: of the products, as in `sparsify`; None means that of the masks.
      seed: seed of the start vector.

    Returns:
      Eigenvalues with eigenvectors and residuals.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> pairs = measure.top_eigenvalues(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> pairs.values.round(4).tolist()  # the Hessian is x^T x
      [4.0]
    """
    return curvature.extreme(Problem(model, data, masks, loss, batch_size, execution).hessian(), k, which, seed=seed)


def spectral_density(
    model: keras.Model,
    data: Any,
    *,
    masks: Masks | None = None,
    loss: Loss = None,
    batch_size: int = 1000,
    execution: Mode | None = None,
    precision: float = 0.05,
    max_probes: int = 20,
    seed: int = 0,
) -> curvature.Density:
    """Density of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

    Args:
      model: a built model.
      data: examples, see `sparse_lib.measure`.
      masks: of the sparse kernels, see `sparse_lib.measure`.
      loss: see `sparse_lib.measure`.
      batch_size: examples per pass (count).
      execution: of the products, as in `sparsify`; None means that of the masks.
      precision: target standard error of the trace, relative to the sum of |eigenvalues| (fraction).
      max_probes: largest number of random probes (count).
      seed: seed of the probes.

    Returns:
      Grid, density and its standard error.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> density = measure.spectral_density(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> round(float(np.trapezoid(density.values, density.grid)), 3)
      1.0
    """
    hessian = Problem(model, data, masks, loss, batch_size, execution).hessian()
    return curvature.quadrature(hessian, precision=precision, max_probes=max_probes, seed=seed).density()


def trace(
    model: keras.Model,
    data: Any,
    *,
    masks: Masks | None = None,
    loss: Loss = None,
    batch_size: int = 1000,
    execution: Mode | None = None,
    precision: float = 0.05,
    max_probes: int = 100,
    seed: int = 0,
) -> curvature.Estimate:
    """Trace of the Hessian of the active weights, by Hutchinson's estimator.

    Args:
      model: a built model.
      data: examples, see `sparse_lib.measure`.
      masks: of the sparse kernels, see `sparse_lib.measure`.
      loss: see `sparse_lib.measure`.
      batch_size: examples per pass (count).
      execution: of the products, as in `sparsify`; None means that of the masks.
      precision: target relative standard error (fraction).
      max_probes: largest number of random probes (count).
      seed: seed of the probes.

    Returns:
      Value, standard error and number of probes.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> estimate = measure.trace(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> round(estimate.value, 3), round(estimate.error, 3)  # a diagonal matrix: the estimate is exact
      (5.0, 0.0)
    """
    hessian = Problem(model, data, masks, loss, batch_size, execution).hessian()
    return curvature.traces(hessian, precision=precision, max_probes=max_probes, seed=seed).trace
