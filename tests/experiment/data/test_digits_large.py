"""`digits_large`, how it is distorted, and the cache that keeps it."""

import dataclasses
import hashlib
import logging
import os
import subprocess

import keras
import numpy as np
import pytest

from sparse_lib.experiment.data.cache import cache_directory, cached_arrays
from sparse_lib.experiment.data.sources import distortion
from sparse_lib.experiment.data.sources.digits import DIGIT_SIZE, digit_originals, render_digits, split_originals
from sparse_lib.experiment.data.sources.digits_large import RECIPE, load_digits_large, read_originals
from sparse_lib.experiment.data.sources.distortion import Recipe
from tests.experiment.data.loading import load

SMALL = dataclasses.replace(RECIPE, train=400, validation=50, test=100)


def make_arrays(recipe: Recipe):
    return distortion.make_arrays(read_originals(), recipe)


@pytest.fixture(scope="module")
def small():
    return make_arrays(SMALL)


def test_images_come_from_disjoint_originals_in_equal_parts(small):
    _, labels = digit_originals()
    parts = dict(zip(("train", "validation", "test"), split_originals(labels), strict=True))
    for split, part in parts.items():
        used = small[f"original_{split}"]
        assert set(used.tolist()) <= set(part.tolist())
        np.testing.assert_array_equal(small[f"y_{split}"], labels[used])
        assert np.unique(used, return_counts=True)[1].max() == -(-len(used) // len(part))


def test_making_is_a_function_of_the_recipe_alone(small, monkeypatch):
    monkeypatch.setattr(distortion, "BLOCK", 17)
    again = make_arrays(SMALL)
    for key, array in small.items():
        np.testing.assert_array_equal(again[key], array)
    other = make_arrays(dataclasses.replace(SMALL, seed=1))
    assert not np.array_equal(other["x_train"], small["x_train"])


def test_images_are_about_as_bright_as_mnist(small):
    pixels = small["x_train"] / 255
    assert pixels.mean() == pytest.approx(0.157, abs=0.01)
    assert pixels.std() == pytest.approx(0.288, abs=0.01)


def test_without_jitter_the_originals_come_back():
    still = dataclasses.replace(SMALL, rotation=0, scale=0, shear=0, shift=0, elastic=0)
    arrays = make_arrays(still)
    canvas = render_digits(digit_originals()[0], DIGIT_SIZE)
    np.testing.assert_array_equal(arrays["x_test"], np.rint(255 * canvas[arrays["original_test"]].astype(np.float64)))


def centroids(arrays):
    weight = arrays["x_train"].astype(np.float64)
    axis = np.arange(28)
    total = weight.sum(axis=(1, 2))
    return np.stack([(weight.sum(2) * axis).sum(1) / total, (weight.sum(1) * axis).sum(1) / total], axis=1)


def test_shift_moves_images_by_at_most_its_width():
    still = dataclasses.replace(SMALL, rotation=0, scale=0, shear=0, shift=0, elastic=0)
    shifted = dataclasses.replace(still, shift=1.5)
    moved = centroids(make_arrays(shifted)) - centroids(make_arrays(still))
    assert np.abs(moved).max() <= 1.5 + 0.05
    # The standard deviation of a uniform distribution is its half-width over the root of 3.
    np.testing.assert_allclose(moved.std(axis=0), 1.5 / np.sqrt(3), rtol=0.1)


def test_scale_changes_the_spread_of_the_ink_as_much():
    still = dataclasses.replace(SMALL, rotation=0, scale=0, shear=0, shift=0, elastic=0)

    def height(arrays):
        rows = arrays["x_train"].astype(np.float64).sum(2)
        rows /= rows.sum(1, keepdims=True)
        mean = (rows * np.arange(28)).sum(1, keepdims=True)
        return np.sqrt((rows * (np.arange(28) - mean) ** 2).sum(1))

    stretch = np.log(height(make_arrays(dataclasses.replace(still, scale=0.2)))) - np.log(height(make_arrays(still)))
    assert np.abs(stretch).max() <= 0.2 + 0.03
    assert stretch.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.1)


def test_elastic_displacements_have_the_stated_size():
    smooth = distortion.smoothing_matrix(SMALL.control_points, 28)
    bumps = np.random.default_rng(0).standard_normal((4_000, 6, 6))
    fields = smooth @ bumps @ smooth.T
    np.testing.assert_allclose(fields.std(axis=0), 1, rtol=0.05)


def test_loading_makes_once_and_reads_after(tmp_path, monkeypatch, small):
    first = load_digits_large(cache_dir=tmp_path, recipe=SMALL)
    monkeypatch.setattr(distortion, "make_arrays", lambda originals, recipe: pytest.fail("made again"))
    second = load_digits_large(cache_dir=tmp_path, recipe=SMALL, validation_size=20)
    assert [len(first.train), len(first.validation), len(first.test)] == [400, 50, 100]
    assert [len(second.train), len(second.validation), len(second.test)] == [400, 20, 100]
    assert first.input_shape == (28, 28, 1)
    for split in ("train", "test"):
        mine, stored = getattr(second, split), small[f"x_{split}"]
        np.testing.assert_array_equal(mine.images[..., 0], stored / np.float32(255))
        np.testing.assert_array_equal(mine.labels, small[f"y_{split}"])
    with pytest.raises(ValueError, match="validation_size is 51.* 50 validation images"):
        load_digits_large(cache_dir=tmp_path, recipe=SMALL, validation_size=51)


def test_another_recipe_has_another_file(tmp_path):
    load_digits_large(cache_dir=tmp_path, recipe=SMALL)
    load_digits_large(cache_dir=tmp_path, recipe=dataclasses.replace(SMALL, elastic=0.7))
    assert len(list(tmp_path.glob("digits_large-*.npz"))) == 2


@pytest.mark.slow
def test_the_whole_set_by_name(tmp_path):
    big = load(name="digits_large", cache_dir=tmp_path)
    assert [len(big.train), len(big.validation), len(big.test)] == [60_000, 5_000, 10_000]
    assert np.abs(np.bincount(big.train.labels) / 6_000 - 1).max() < 0.05


@pytest.mark.slow
def test_a_dense_lenet5_finds_it_as_hard_as_mnist(tmp_path):
    big = load(name="digits_large", cache_dir=tmp_path)
    layers = keras.layers
    options = {"kernel_regularizer": keras.regularizers.L2(5e-4)}
    model = keras.Sequential(
        [
            layers.Conv2D(6, 5, activation="relu", **options),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 5, activation="relu", **options),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(120, activation="relu", **options),
            layers.Dense(84, activation="relu", **options),
            layers.Dense(10, **options),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(0.05, 11_725)
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(big.train.images, big.train.labels, batch_size=128, epochs=25, verbose=0)
    _, accuracy = model.evaluate(big.test.images, big.test.labels, batch_size=1_000, verbose=0)
    assert 0.985 <= accuracy <= 0.995


# The cache

ARRAYS = {"a": np.arange(1_000), "b": np.ones((3, 4), np.float32)}


def counted():
    calls = []

    def make():
        calls.append(1)
        return ARRAYS

    return make, calls


def assert_same(found):
    assert set(found) == set(ARRAYS)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(found[key], array)
        assert found[key].dtype == array.dtype


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGES = {
    "a bit": flip,
    "the end": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "everything": lambda path: path.write_bytes(b""),
    "another file": lambda path: path.write_bytes(b"something else"),
    "no checksum": lambda path: path.with_name("set.npz.sha256").unlink(),
    "half a checksum": lambda path: path.with_name("set.npz.sha256").write_bytes(b"\xff\x00ab"),
    "other valid arrays": lambda path: np.savez(path, a=np.zeros(3)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_cache_is_made_again_with_one_line(tmp_path, caplog, damage):
    path = tmp_path / "deep" / "set.npz"
    make, calls = counted()
    assert_same(cached_arrays(path, make))
    assert_same(cached_arrays(path, make))
    assert len(calls) == 1
    assert not caplog.records
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert_same(cached_arrays(path, make))
    assert len(calls) == 2
    assert [r.message for r in caplog.records] == [f"{path} does not match its checksum: making it again."]
    assert_same(cached_arrays(path, make))
    assert len(calls) == 2
    assert sorted(p.name for p in path.parent.iterdir()) == ["set.npz", "set.npz.sha256"]


def test_the_checksum_is_that_of_sha256sum(tmp_path):
    cached_arrays(tmp_path / "set.npz", lambda: ARRAYS)
    digest = hashlib.sha256((tmp_path / "set.npz").read_bytes()).hexdigest()
    assert (tmp_path / "set.npz.sha256").read_text() == f"{digest}  set.npz\n"
    subprocess.run(["sha256sum", "-c", "set.npz.sha256"], cwd=tmp_path, check=True)


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "set.npz"
    cached_arrays(path, lambda: {"a": np.zeros(2)})
    path.with_name("set.npz.sha256").unlink()
    old = path.read_bytes()

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(KeyboardInterrupt):
        cached_arrays(path, lambda: ARRAYS)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["set.npz"]


def test_an_unwritable_cache_costs_a_warning(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    with caplog.at_level(logging.WARNING):
        assert_same(cached_arrays(blocked / "set.npz", lambda: ARRAYS))
    assert len(caplog.records) == 1
    assert "Cannot keep" in caplog.text


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SPARSE_LIB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / ".cache" / "sparse_lib"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "sparse_lib"
    monkeypatch.setenv("SPARSE_LIB_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    assert cache_directory("~/mine") == tmp_path / "mine"
