"""The gradient norm early in training."""

import numpy as np

from sparse_lib.experiment.jobs.early_gradient import early_gradient_norm, find_first_update


def test_gradient_norm_early_in_training():
    metrics = [{"step": step, "gradient_norm": float(step)} for step in range(0, 101, 5)]
    assert early_gradient_norm(metrics) == 7.5
    # The tenth of training after a first mask update at step 20: steps 25 and 30.
    assert early_gradient_norm(metrics, 20) == 27.5
    assert np.isnan(early_gradient_norm([]))
    assert np.isnan(early_gradient_norm([{"step": 1, "gradient_norm": None}, {"step": 10, "gradient_norm": 1.0}]))


def test_the_first_mask_update_is_one_that_grows():
    updates = [{"step": 5, "grown": 0}, {"step": 10, "grown": 3}, {"step": 15, "grown": 3}]
    assert (find_first_update(updates), find_first_update(updates[:1]), find_first_update([])) == (10, 0, 0)
