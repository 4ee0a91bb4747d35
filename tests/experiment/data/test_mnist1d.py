"""`mnist1d`: the published sequences, made here, and no trace in the global random states."""

import random

import numpy as np
import pytest

from tests.experiment.data.loading import load

# Of mnist1d_data.pkl in github.com/greydanus/mnist1d, commit 9f13bb4: first values of the first sequence, first labels.
PUBLISHED = {
    "x_train": [-0.3320056673693902, -0.4719103656557236, -0.778697076293495, -1.0097408265367047, -0.8823525654053074],
    "x_test": [
        -0.07877078047732886,
        -0.21073170588642925,
        -0.09175138109239452,
        0.28267111736736455,
        0.3260581534953046,
    ],
    "y_train": [2, 6, 4, 5, 6, 6, 6, 0, 3, 1, 6, 9],
    "y_test": [2, 6, 3, 9, 4, 3, 1, 9, 5, 2, 0, 7],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def made(cache):
    """All 4,000 in the training split, and the global random numbers that were drawn after making them."""
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002  (the very thing that must not matter)
    dataset = load(name="mnist1d", cache_dir=cache, validation_size=0)
    return dataset, (random.random(), np.random.random())  # noqa: NPY002


def test_sequences_are_the_published_ones(made):
    dataset = made[0]
    for split, part in (("train", dataset.train), ("test", dataset.test)):
        np.testing.assert_allclose(part.images[0, :5, 0], PUBLISHED[f"x_{split}"], rtol=1e-6, atol=1e-7)
        assert part.labels[:12].tolist() == PUBLISHED[f"y_{split}"]
    everything = np.concatenate([dataset.train.images, dataset.test.images]).astype(np.float64)
    assert everything.mean() == pytest.approx(0, abs=1e-6) and everything.std() == pytest.approx(1, abs=1e-6)


def test_making_leaves_the_global_random_states_alone(made):
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    assert made[1] == (random.random(), np.random.random())  # noqa: NPY002


def test_splits_have_the_documented_sizes(cache, made):
    dataset = load(name="mnist1d", cache_dir=cache)
    assert dataset.input_shape == (40, 1)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [3_600, 400, 1_000]
    np.testing.assert_array_equal(dataset.test.images, made[0].test.images)
    held = {sequence.tobytes() for sequence in dataset.validation.images}
    assert len(held) == 400 and not held & {sequence.tobytes() for sequence in dataset.train.images}


@pytest.mark.parametrize("setting", [{"augmentation": "crop_flip"}, {"preprocessing": "per_image"}])
def test_what_is_for_images_is_refused(setting):
    with pytest.raises(ValueError, match="are for images, not for 'mnist1d': leave them out"):
        load(name="mnist1d", **setting)


def test_shuffled_sequences_have_the_same_values_at_other_places(cache, made):
    shuffled = load(name="mnist1d_shuffled", cache_dir=cache, validation_size=0)
    assert shuffled.name == "mnist1d_shuffled"
    for split in ("train", "test"):
        mine, others = getattr(shuffled, split), getattr(made[0], split)
        np.testing.assert_array_equal(mine.labels, others.labels)
        np.testing.assert_array_equal(np.sort(mine.images, axis=1), np.sort(others.images, axis=1))
        assert (mine.images != others.images).any(axis=(0, 2)).sum() > 30
    # One permutation for all: every column is a column of the others.
    columns = {column.tobytes() for column in np.ascontiguousarray(made[0].train.images[:, :, 0].T)}
    assert {column.tobytes() for column in np.ascontiguousarray(shuffled.train.images[:, :, 0].T)} == columns
