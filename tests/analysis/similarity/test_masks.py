"""Similarity of masks, against hand-worked tables and exact chances."""

import numpy as np
import pytest
from scipy import stats

from analysis.similarity import masks


def of(*places: int, size: int = 6) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[list(places)] = True
    return mask


def test_overlap_of_layers_and_of_all():
    one = {"a": of(0, 1, 2), "b": of(0, size=4)}
    other = {"a": of(1, 2, 3), "b": of(1, size=4)}
    frame = masks.overlap(one, other).set_index("layer")
    # 2 of 4, 0 of 2, together 2 of 6.
    assert list(frame["iou"]) == [0.5, 0.0, pytest.approx(1 / 3)]


@pytest.mark.parametrize(("n", "a", "b"), [(4, 2, 2), (30, 10, 12), (5000, 250, 250), (200, 200, 20)])
def test_chance_is_that_of_the_hypergeometric_distribution(n, a, b):
    one, other = of(*range(a), size=n), of(*range(b), size=n)
    hits = np.arange(max(0, a + b - n), min(a, b) + 1)
    exact = np.sum(stats.hypergeom.pmf(hits, n, a, b) * hits / (a + b - hits))
    frame = masks.overlap({"x": one}, {"x": other})
    assert frame["chance"].tolist() == pytest.approx([exact, exact], rel=0.02 if n < 100 else 1e-4)


def test_chance_of_several_layers_is_that_of_random_masks():
    rng = np.random.default_rng(0)
    sizes = {"a": (40, 8), "b": (10, 6)}

    def draw() -> dict[str, np.ndarray]:
        return {name: of(*rng.permutation(size)[:active], size=size) for name, (size, active) in sizes.items()}

    drawn = [masks.overlap(draw(), draw()).iloc[-1] for _ in range(400)]
    measured = np.array([row["iou"] for row in drawn])
    assert abs(measured.mean() - drawn[0]["chance"]) < 4 * measured.std() / np.sqrt(len(measured))


def test_above_chance_is_one_for_equal_masks():
    mask = {"x": of(0, 1, size=50)}
    assert masks.overlap(mask, mask)["above_chance"].tolist() == pytest.approx([1, 1])


def test_survival_by_hand():
    # Grown: 2 at 10, gone at 20; 3 at 10, gone at 30; 4 at 20 and 5 at 10, both there at the end, at 30.
    history = [{"a": m} for m in (of(0, 1), of(1, 2, 3, 5), of(1, 3, 4, 5), of(1, 4, 5))]
    frame = masks.survival([0, 10, 20, 30], history)
    # Age 10: four at risk, one leaves, one is censored; age 20: two at risk, one leaves, one is censored.
    assert frame["age"].tolist() == [10, 20]
    assert frame["at_risk"].tolist() == [4, 2]
    assert frame["left"].tolist() == [1, 1]
    assert frame["survival"].tolist() == pytest.approx([3 / 4, 3 / 8])


def test_survival_from_the_first_checkpoint():
    history = [{"a": m} for m in (of(0, 1), of(1), of(1))]
    frame = masks.survival([0, 10, 20], history, grown=False)
    assert frame[["age", "at_risk", "left"]].to_numpy().tolist() == [[10, 2, 1], [20, 1, 0]]
    assert frame["survival"].tolist() == [0.5, 0.5]


def test_a_weight_that_comes_back_begins_a_new_life():
    history = [{"a": m} for m in (of(), of(0), of(), of(0), of(0))]
    frame = masks.survival([0, 1, 2, 3, 4], history)
    assert frame[["age", "at_risk", "left"]].to_numpy().tolist() == [[1, 2, 1]]


def test_what_was_active_from_the_start_is_not_grown():
    assert masks.survival([0, 1], [{"a": of(0)}, {"a": of()}]).empty


@pytest.mark.parametrize("steps", [[0], [1, 0], [0, 0]])
def test_steps_that_do_not_fit_are_refused(steps):
    with pytest.raises(ValueError, match="ascending order"):
        masks.survival(steps, [{"a": of(0)}, {"a": of(1)}])


def test_masks_of_other_networks_are_refused():
    with pytest.raises(ValueError, match="same layers"):
        masks.overlap({"a": of(0)}, {"b": of(0)})
