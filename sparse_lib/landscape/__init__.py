"""The loss between and around solutions: paths, barriers, surfaces, weight matching."""

from sparse_lib.landscape.barrier import Barrier, Peak, Rise, barrier
from sparse_lib.landscape.batch_norm import BatchNormEstimator
from sparse_lib.landscape.curve_fit import CurveFit, Examples, fit_curve, in_memory
from sparse_lib.landscape.directions import filter_axes, filter_normalized, random_direction
from sparse_lib.landscape.evaluation import ModelEvaluator, Score, evaluate_batch, evaluate_path
from sparse_lib.landscape.matching import Matching, match
from sparse_lib.landscape.paths import Bezier, Ends, coefficients, linear_path, masked_ends
from sparse_lib.landscape.plane import Plane, Triangle, plane_through
from sparse_lib.landscape.surface import (
    Surface,
    assembled,
    axis_around_zero,
    axis_over,
    evaluate_rows,
    evaluate_surface,
)
from sparse_lib.landscape.trajectory import Trajectory, principal_plane

__all__ = [
    "Barrier",
    "BatchNormEstimator",
    "Bezier",
    "CurveFit",
    "Ends",
    "Examples",
    "Matching",
    "ModelEvaluator",
    "Peak",
    "Plane",
    "Rise",
    "Score",
    "Surface",
    "Trajectory",
    "Triangle",
    "assembled",
    "axis_around_zero",
    "axis_over",
    "barrier",
    "coefficients",
    "evaluate_batch",
    "evaluate_path",
    "evaluate_rows",
    "evaluate_surface",
    "filter_axes",
    "filter_normalized",
    "fit_curve",
    "in_memory",
    "linear_path",
    "masked_ends",
    "match",
    "plane_through",
    "principal_plane",
    "random_direction",
]
