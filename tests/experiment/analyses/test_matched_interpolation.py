"""interpolate.match: a network and its own permutation are one solution, and masks go along."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import landscape
from sparse_lib.experiment.analyses import interpolation, solutions
from sparse_lib.experiment.config.analyses import InterpolateSettings
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.storage.checkpoints import Checkpoints
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import build_model
from tests.experiment import tiny

SPARSE = {"masks": {"sparsity": 0.6}, "mask_updater": {"update_alg": "static"}}
NORM = type(tiny.SIZES["mlp"])(hidden_sizes=(12, 8), use_batch_norm=True)


def experiment(kind):
    return tiny.experiment("lenet5" if kind == "lenet5" else "mlp", sizes=NORM if kind == "norm" else None, **SPARSE)


def read(kind, checkpoint):
    made = experiment(kind)
    model = build_model(made)
    return model, solutions.read(checkpoint, model, made.network.kernels(model))


def save(kind, directory, solution):
    """Writes a solution as a checkpoint."""
    made = experiment(kind)
    model = build_model(made)
    names = {id(kernel): name for name, kernel in made.network.kernels(model).items()}
    trainable = zip(model.trainable_variables, solution.values, solution.masks, strict=True)
    masks = {}
    for variable, value, mask in trainable:
        variable.assign(value)
        if mask is not None:
            masks[names[id(variable)]] = tf.Variable(mask)
    for variable, value in zip(landscape.batch_norm.statistics(model), solution.statistics, strict=True):
        variable.assign(value)
    directory.mkdir()
    state = {"model": {v.path: v.value for v in model.variables}, "masks": masks}
    Checkpoints(directory, state, keep=None, network=model.name).save(24)


def shuffled(kind, checkpoint, seed=5):
    """A solution with its hidden units in another order."""
    model, solution = read(kind, checkpoint)
    chain = landscape.matching.hidden_units(model)
    rng = np.random.default_rng(seed)
    known = {name: rng.permutation(units) for name, units in chain.units.items()}
    matching = landscape.Matching(known, 0.0, 0.0, chain)
    variables = model.trainable_variables
    return solution._replace(
        values=matching.permute(variables, solution.values),
        masks=[
            None if m is None else matching.permute([v], [m])[0] for v, m in zip(variables, solution.masks, strict=True)
        ],
        statistics=matching.permute(landscape.batch_norm.statistics(model), solution.statistics),
    )


@pytest.fixture(scope="module", params=["mlp", "norm", "lenet5"])
def pair(request, tmp_path_factory):
    """A trained network, and the same one with its units in another order."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    tiny.train(experiment(kind), folder / "one")
    save(kind, folder / "other", shuffled(kind, folder / "one"))
    return kind, folder


def interpolate(pair, directory, **settings):
    kind, folder = pair
    settings = InterpolateSettings(**{"n_interpolation": 8, "batch_norm": "interpolate", **settings})
    return interpolation.interpolate(
        experiment(kind), settings, start=folder / "one", end=folder / "other", directory=directory
    )


def test_a_permuted_network_is_the_same_solution(pair, tmp_path):
    kind, folder = pair
    apart = interpolate(pair, tmp_path / "apart")
    assert apart["distance"] > 0.5 and apart["barrier"]["train"]["loss"]["above_line"]["height"] > 1e-3
    matched = interpolate(pair, tmp_path / "matched", match=True)
    assert matched["distance"] == 0
    assert matched["distance_before_matching"] == pytest.approx(apart["distance"])
    assert matched["barrier"]["train"]["loss"]["above_line"]["height"] == pytest.approx(0, abs=1e-12)
    plain = run.evaluate(experiment(kind), folder / "other")
    assert matched["ends"]["end"]["test"]["loss"] == plain["test_loss"]


def test_masks_and_statistics_go_along(pair):
    kind, folder = pair
    model, one = read(kind, folder / "one")
    _, other = read(kind, folder / "other")
    assert any(m is not None and (m != n).any() for m, n in zip(one.masks, other.masks, strict=True))
    found, _ = solutions.match_units(model, one, other, seed=0)
    for mask, expected in zip(found.masks, one.masks, strict=True):
        assert (mask is None) == (expected is None)
        assert mask is None or (mask == expected).all()
    for value, expected in zip(found.statistics, one.statistics, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_the_setting_is_a_switch():
    with pytest.raises(SettingError, match="True or False"):
        InterpolateSettings(match="yes")
