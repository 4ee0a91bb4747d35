"""The exact Hessian of the active weights, and its eigenvalues."""

from sparse_lib.curvature.exact.matrix import ExactHessian, eigenvalues, eigenvectors, hessian, memory_needed

__all__ = ["ExactHessian", "eigenvalues", "eigenvectors", "hessian", "memory_needed"]
