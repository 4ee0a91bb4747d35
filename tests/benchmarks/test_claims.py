"""The claims of docs/results.md on the embedded digits, with margins for three seeds."""

import numpy as np
import pytest

from benchmarks import claims

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return claims.run_study(tmp_path_factory.mktemp("claims"), "mlp_configs")


def values(results: dict, mode: str, key: str) -> np.ndarray:
    return np.array([row[key] for row in results[mode]])


def test_lottery_ends_within_a_point_of_pruning(results: dict) -> None:
    pruned, ticket = (values(results, mode, "test_accuracy") for mode in ("prune", "lottery"))
    assert pruned.mean() > 0.96
    assert abs(ticket.mean() - pruned.mean()) < 0.01


def test_lottery_disagrees_with_pruning_less_than_scratch_does(results: dict) -> None:
    ticket, scratch = (values(results, mode, "disagreement") for mode in ("lottery", "scratch"))
    assert ticket.mean() < 0.6 * scratch.mean()


def test_gradient_norm_rises_more_at_updates_of_rigl_than_of_set(results: dict) -> None:
    rigl, random = (values(results, mode, "gradient_norm_change") for mode in ("rigl_plus", "set_plus"))
    assert (rigl > random).all()
    assert rigl.mean() > 0
