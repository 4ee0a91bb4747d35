"""Curvature of the loss in the space of a model's active weights.

A `Subspace` selects the weights and `Batches` holds the data. The operators (Hessian, Gauss-Newton, Fisher, KFAC) are
scipy `LinearOperator`s on them; eigenvalues, spectral density, traces, diagonals and inverse products are functions of
any symmetric operator and know nothing of models. `sparse_lib.curvature.exact` computes the Hessian as a matrix.
"""

from sparse_lib.batches import Batches
from sparse_lib.curvature import exact
from sparse_lib.curvature.callback import Sharpness, TopEigenvalue
from sparse_lib.curvature.determinism import consistency
from sparse_lib.curvature.diagonal import Diagonal, diagonal
from sparse_lib.curvature.eigenpairs import Eigenpairs, both_ends, extreme
from sparse_lib.curvature.estimate import Estimate
from sparse_lib.curvature.exact import ExactHessian, eigenvalues, hessian
from sparse_lib.curvature.gauss_newton import FisherOperator, GaussNewtonOperator
from sparse_lib.curvature.inverse import InverseOperator, Solution, solve
from sparse_lib.curvature.kfac import KFACOperator
from sparse_lib.curvature.kronecker import Block, DiagonalBlock, KroneckerBlock
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
    "Block",
    "Counted",
    "CurvatureOperator",
    "Density",
    "Diagonal",
    "DiagonalBlock",
    "Eigenpairs",
    "Estimate",
    "ExactHessian",
    "FisherOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "InverseOperator",
    "KFACOperator",
    "KroneckerBlock",
    "Lanczos",
    "Probe",
    "Quadrature",
    "Ritz",
    "Sharpness",
    "Solution",
    "Subspace",
    "Summary",
    "TopEigenvalue",
    "Traces",
    "both_ends",
    "change",
    "consistency",
    "diagonal",
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
    "solve",
    "stability_limit",
    "summarize",
    "summarize_estimates",
    "traces",
]
