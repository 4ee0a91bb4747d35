"""`mnist_large`: the mechanism of `digits_large` with other originals, none of them in two splits."""

import dataclasses

import numpy as np
import pytest

from sparse_lib.experiment.data.sources.distortion import make_arrays
from sparse_lib.experiment.data.sources.mnist_large import RECIPE, load_mnist_large, read_originals
from tests.experiment.data.loading import load

SMALL = dataclasses.replace(RECIPE, train=700, validation=60, test=200)
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_images_derive_from_the_images_of_the_same_split_of_mnist_5k(cache):
    still = dataclasses.replace(SMALL, rotation=0, scale=0, shear=0, shift=0, elastic=0)
    arrays = make_arrays(read_originals(cache), still)
    small = load(name="mnist_5k", cache_dir=cache)
    for split in SPLITS:
        part = getattr(small, split)
        levels = np.rint(255 * part.images[..., 0]).astype(np.uint8)
        originals = {image.tobytes(): label for image, label in zip(levels, part.labels, strict=True)}
        found = [originals[image.tobytes()] for image in arrays[f"x_{split}"]]
        np.testing.assert_array_equal(found, arrays[f"y_{split}"])


def test_images_are_distorted_and_as_bright_as_mnist(cache):
    originals = read_originals(cache)
    arrays = make_arrays(originals, SMALL)
    difference = arrays["x_train"] / 255 - originals.canvas[arrays["original_train"]]
    assert 0.05 < np.abs(difference).mean(axis=(1, 2)).mean() < 0.15
    pixels = arrays["x_train"] / 255
    assert pixels.mean() == pytest.approx(0.131, abs=0.01)
    assert pixels.std() == pytest.approx(0.309, abs=0.03)


def test_loading_takes_the_small_recipe_and_keeps_it(cache):
    made = load_mnist_large(cache_dir=cache, recipe=SMALL)
    assert made.name == "mnist_large"
    assert [len(getattr(made, split)) for split in SPLITS] == [700, 60, 200]
    assert len(list(cache.glob("mnist_large-*.npz"))) == 1
    with pytest.raises(ValueError, match="validation_size is 61, and 'mnist_large' has 60"):
        load_mnist_large(61, cache, SMALL)


@pytest.mark.slow
def test_the_whole_set_by_name(cache):
    big = load(name="mnist_large", cache_dir=cache)
    assert [len(getattr(big, split)) for split in SPLITS] == [60_000, 5_000, 10_000]
    assert np.abs(np.bincount(big.train.labels) / 6_000 - 1).max() < 0.01
