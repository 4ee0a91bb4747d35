"""Curvature of the loss in the space of a model's active weights.

A `Subspace` says which weights, `Batches` which data. An operator is the Hessian, Gauss-Newton or Fisher matrix there,
known by its products; everything else takes any operator and never sees a model.
"""

from sparse_lib.curvature.batches import Batches
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
