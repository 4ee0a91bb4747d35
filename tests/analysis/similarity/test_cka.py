"""Linear CKA, against its definition and its invariances."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from analysis.similarity import cka


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 6)) + 3.0
    return x, x[:, :4] @ rng.normal(size=(4, 5)) + rng.normal(size=(30, 5))


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with linear kernels (Kornblith et al. 2019, equations 3 and 4)."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n

    def hsic(k, l_):
        return np.trace(k @ centre @ l_ @ centre) / (n - 1) ** 2

    k, l_ = x @ x.T, y @ y.T
    return hsic(k, l_) / np.sqrt(hsic(k, k) * hsic(l_, l_))


def test_is_its_definition(features):
    x, y = features
    assert cka.linear_cka(x, y) == pytest.approx(by_definition(x, y))
    assert 0.05 < cka.linear_cka(x, y) < 0.95


def test_more_units_than_examples(features):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(10, 40)), rng.normal(size=(10, 50))
    assert cka.linear_cka(x, y) == pytest.approx(by_definition(x, y))


def test_invariances(features):
    x, y = features
    turned = x @ ortho_group.rvs(x.shape[1], random_state=0) * 2.5 + 7.0
    assert cka.linear_cka(x, turned) == pytest.approx(1.0)
    assert cka.linear_cka(turned, y) == pytest.approx(cka.linear_cka(x, y))
    assert cka.linear_cka(x, y) == pytest.approx(cka.linear_cka(y, x))


def test_is_not_invariant_to_every_linear_map(features):
    x, _ = features
    assert cka.linear_cka(x, x * np.array([100, 1, 1, 1, 1, 1])) < 0.9


def test_orthogonal_representations_have_nothing_in_common():
    x, y = np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([[1.0], [1.0], [-1.0], [-1.0]])
    assert cka.linear_cka(x, y) == pytest.approx(0)
    assert np.isnan(cka.linear_cka(x, np.ones((4, 2))))


def test_other_examples_are_refused(features):
    with pytest.raises(ValueError, match="same examples"):
        cka.linear_cka(features[0], features[1][:5])


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_activations_are_those_of_the_layers(tiny_model, kind):
    model = tiny_model(kind)
    images = np.random.default_rng(0).normal(size=(7, *model.input_shape[1:])).astype(np.float32)
    found = cka.activations(model, images)
    assert list(found)[-1] == "logits"
    np.testing.assert_allclose(found["logits"], model(images), rtol=1e-5)
    first = model.layers[0](images)
    np.testing.assert_allclose(next(iter(found.values())), np.reshape(first, (7, -1)), rtol=1e-5, atol=1e-6)
    table = cka.compare(found, found)
    np.testing.assert_allclose(np.diag(table), 1.0)
    assert list(table.columns) == list(found)
