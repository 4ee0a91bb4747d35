"""Curvature of the loss in the space of a model's active weights.

A `Subspace` selects the weights and `Batches` holds the data. The operators (Hessian, Gauss-Newton, Fisher) are
matrix-free scipy `LinearOperator`s on them; eigenvalues, spectral density and traces are functions of any symmetric
operator and know nothing of models. `sparse_lib.curvature.exact` computes the Hessian as a matrix.
"""

from sparse_lib.batches import Batches
from sparse_lib.curvature import exact
from sparse_lib.curvature.callback import Sharpness, TopEigenvalue
from sparse_lib.curvature.determinism import consistency
from sparse_lib.curvature.eigenpairs import Eigenpairs, both_ends, extreme
from sparse_lib.curvature.estimate import Estimate
from sparse_lib.curvature.exact import ExactHessian, eigenvalues, hessian
from sparse_lib.curvature.gauss_newton import FisherOperator, GaussNewtonOperator
from sparse_lib.curvature.lanczos import Lanczos, Ritz, lanczos
from sparse_lib.curvature.operators import Counted, CurvatureOperator, HessianOperator, restricted, shifted
from sparse_lib.curvature.quadrature import Density, Probe, Quadrature, quadrature
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.curvature.summary import (
    Summary,
    change,
    float_tolerance,
    overlap,
    stability_limit,
    summarize,
    summarize_estimates,
)
from sparse_lib.curvature.traces import Traces, traces

__all__ = [
    "Batches",
    "Counted",
    "CurvatureOperator",
    "Density",
    "Eigenpairs",
    "Estimate",
    "ExactHessian",
    "FisherOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "Lanczos",
    "Probe",
    "Quadrature",
    "Ritz",
    "Sharpness",
    "Subspace",
    "Summary",
    "TopEigenvalue",
    "Traces",
    "both_ends",
    "change",
    "consistency",
    "eigenvalues",
    "exact",
    "extreme",
    "float_tolerance",
    "hessian",
    "lanczos",
    "overlap",
    "quadrature",
    "restricted",
    "shifted",
    "stability_limit",
    "summarize",
    "summarize_estimates",
    "traces",
]
