"""The gradient norm early in training."""

import numpy as np

from sparse_lib.experiment.jobs.early_gradient import early_gradient_norm


def test_gradient_norm_early_in_training():
    metrics = [{"step": step, "gradient_norm": float(step)} for step in range(0, 101, 5)]
    assert early_gradient_norm(metrics) == 7.5
    assert np.isnan(early_gradient_norm([]))
    assert np.isnan(early_gradient_norm([{"step": 1, "gradient_norm": None}, {"step": 10, "gradient_norm": 1.0}]))
