"""The exact Hessian of chains of piecewise linear layers, from their structure."""

from sparse_lib.curvature.structure.hessian import by_structure
from sparse_lib.curvature.structure.maps import NoChainError

__all__ = ["NoChainError", "by_structure"]
