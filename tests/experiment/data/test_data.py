"""Data sets: what `digits` and `.npz` files give, what is refused, and the order of batches."""

import ast
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits as sklearn_digits

from sparse_lib.experiment import data
from sparse_lib.experiment.data import Dataset, DataSettings, Split, batch_indices
from sparse_lib.experiment.data.dataset import dataset_from_arrays
from sparse_lib.experiment.data.holdout import hold_out
from sparse_lib.experiment.data.sources.digits import digit_originals, render_digits, split_originals
from sparse_lib.experiment.runtime.errors import SettingError
from tests.experiment.data.loading import load


def split_of(count: int, *, size: int = 4, classes: int = 3) -> Split:
    rng = np.random.default_rng(count)
    images = rng.random((count, size, size, 1), dtype=np.float32)
    return Split(images, (np.arange(count) % classes).astype(np.int32))


def stored_arrays(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (20, 5, 6), dtype=np.uint8),
        "y_train": (np.arange(20) % 4).astype(np.int64),
        "x_test": rng.integers(0, 256, (8, 5, 6), dtype=np.uint8),
        "y_test": (np.arange(8) % 4).astype(np.int64),
    }
    arrays.update(changes)
    return {key: value for key, value in arrays.items() if value is not None}


# Order of batches


def reference_rows(seed, step, batch_size, n):
    """Position by position, from the definition."""
    rows = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        order = np.random.default_rng([seed, 0xDA7A, position // n]).permutation(n)
        rows.append(order[position % n])
    return rows


@pytest.mark.parametrize(("batch_size", "n"), [(3, 10), (10, 10), (7, 5), (23, 4), (1, 1)])
def test_batches_follow_their_definition(batch_size, n):
    rows = batch_indices(seed=5, first_step=2, steps=6, batch_size=batch_size, n=n)
    assert rows.dtype == np.int32
    assert rows.shape == (6, batch_size)
    for offset in range(6):
        assert rows[offset].tolist() == reference_rows(5, 2 + offset, batch_size, n)


@pytest.mark.parametrize(("batch_size", "n"), [(4, 10), (7, 10), (25, 10)])
def test_batches_do_not_depend_on_how_a_run_is_cut(batch_size, n):
    whole = batch_indices(seed=1, first_step=0, steps=30, batch_size=batch_size, n=n)
    for cuts in ([0, 1, 30], [0, 7, 8, 19, 30], list(range(31))):
        pieces = [
            batch_indices(seed=1, first_step=a, steps=b - a, batch_size=batch_size, n=n)
            for a, b in itertools.pairwise(cuts)
        ]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_every_epoch_shows_every_image_once_in_another_order():
    epochs = batch_indices(seed=3, first_step=0, steps=30, batch_size=20, n=100).reshape(6, 100)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(100), (6, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 6
    other = batch_indices(seed=4, first_step=0, steps=5, batch_size=20, n=100).reshape(-1)
    assert not np.array_equal(other, epochs[0])


def test_batches_are_the_callers_own():
    first = batch_indices(seed=0, first_step=0, steps=1, batch_size=8, n=8)
    expected = first.copy()
    first[:] = -1
    again = batch_indices(seed=0, first_step=0, steps=1, batch_size=8, n=8)
    np.testing.assert_array_equal(again, expected)


def test_late_steps_do_not_overflow():
    rows = batch_indices(seed=0, first_step=10**9, steps=2, batch_size=4096, n=60_000)
    assert rows.min() >= 0
    assert rows.max() < 60_000


def test_no_steps_give_no_rows():
    assert batch_indices(seed=0, first_step=4, steps=0, batch_size=5, n=10).shape == (0, 5)


@pytest.mark.parametrize("change", [{"seed": -1}, {"first_step": -1}, {"steps": -1}, {"batch_size": 0}, {"n": 0}])
def test_batches_refuse_bad_arguments(change):
    arguments = {"seed": 0, "first_step": 0, "steps": 1, "batch_size": 1, "n": 1} | change
    with pytest.raises(ValueError, match=f"{next(iter(change))} is .*: choose at least"):
        batch_indices(**arguments)


# digits


def test_digits_have_the_documented_shape():
    digits = load()
    assert digits.name == "digits"
    assert digits.input_shape == (28, 28, 1)
    assert digits.num_classes == 10
    assert [len(digits.train), len(digits.validation), len(digits.test)] == [1257, 180, 360]
    for split in (digits.train, digits.validation, digits.test):
        assert split.images.dtype == np.float32
        assert split.labels.dtype == np.int32
        assert split.images.flags.c_contiguous
        assert split.images.min() == 0
        assert 0.9 < split.images.max() <= 1


def test_digits_are_the_real_ones_with_their_labels():
    # The digit is 2.5 times 8 pixels wide: its mean over such blocks must resemble the original.
    digits, bunch = load(), sklearn_digits()
    originals = (bunch.images / 16).reshape(1797, 64)
    cuts = np.linspace(0, 20, 9).round().astype(int)
    images = digits.test.images[:, 4:24, 4:24, 0]
    shrunk = np.add.reduceat(np.add.reduceat(images, cuts[:-1], axis=1), cuts[:-1], axis=2)
    shrunk /= np.outer(np.diff(cuts), np.diff(cuts))
    distances = ((shrunk.reshape(-1, 1, 64) - originals) ** 2).sum(-1)
    nearest = distances.argmin(axis=1)
    np.testing.assert_array_equal(bunch.target[nearest], digits.test.labels)
    assert len(set(nearest)) == len(digits.test)


def test_digits_are_enlarged_as_by_spline_interpolation():
    images = digit_originals()[0][:20]
    expected = ndimage.zoom(images.astype(np.float64), (1, 2.5, 2.5), order=3, mode="grid-constant", grid_mode=True)
    enlarged = render_digits(images, 20)
    np.testing.assert_allclose(enlarged[:, 4:24, 4:24], np.clip(expected, 0, 1), atol=1e-6)
    enlarged[:, 4:24, 4:24] = 0
    assert not enlarged.any()


def test_digits_are_stratified_and_disjoint():
    _, labels = digit_originals()
    parts = split_originals(labels)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1797))
    everything = np.bincount(labels) / 1797
    for part in parts:
        counts = np.bincount(labels[part], minlength=10)
        assert np.abs(counts - everything * len(part)).max() <= 1.5


def test_digits_do_not_depend_on_global_seeds():
    np.random.seed(1)  # noqa: NPY002  (the very thing that must not matter)
    first = load()
    np.random.seed(2)  # noqa: NPY002
    second = load()
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)


def test_validation_size_leaves_the_test_images_alone():
    default, wide, none = (load(validation_size=n) for n in (None, 437, 0))
    assert [len(wide.train), len(wide.validation), len(wide.test)] == [1000, 437, 360]
    assert [len(none.train), len(none.validation), len(none.test)] == [1437, 0, 360]
    np.testing.assert_array_equal(default.test.images, wide.test.images)


@pytest.mark.parametrize("size", [1437, 5000])
def test_digits_refuse_a_validation_size_that_leaves_nothing(size):
    with pytest.raises(ValueError, match=f"validation_size is {size}.*choose"):
        load(validation_size=size)


MODULES = {path.stem: path for path in sorted(Path(data.__file__).parent.glob("*.py"))}
# What runs inside TensorFlow's graphs; nobody else imports it before it is needed.
IN_GRAPHS = {"augmentation", "decoding", "pipeline", "resident", "stream"}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - IN_GRAPHS))
def test_modules_import_nothing_slow(name):
    found = set()
    for node in ast.parse(MODULES[name].read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    assert {module.partition(".")[0] for module in found} <= sys.stdlib_module_names | {"numpy", "sparse_lib"}
    assert not found & {f"sparse_lib.experiment.data.{slow}" for slow in IN_GRAPHS}


# .npz files


def test_npz_scales_integers_and_adds_a_channel(tmp_path):
    arrays = stored_arrays()
    np.savez(tmp_path / "own.npz", **arrays)
    own = load(name="own.npz", data_dir=tmp_path)
    assert own.input_shape == (5, 6, 1)
    assert own.num_classes == 4
    assert [len(own.train), len(own.validation), len(own.test)] == [18, 2, 8]
    expected = (arrays["x_test"] / 255).astype(np.float32)[..., np.newaxis]
    np.testing.assert_allclose(own.test.images, expected, rtol=1e-7)
    np.testing.assert_array_equal(own.test.labels, arrays["y_test"])


def test_npz_takes_floats_and_channels_as_they_are(tmp_path):
    floats = np.random.default_rng(0).normal(size=(20, 5, 6, 3))
    arrays = stored_arrays(x_train=floats, x_test=floats[:8])
    np.savez_compressed(tmp_path / "own.npz", **arrays)
    own = load(name=str(tmp_path / "own.npz"), validation_size=0)
    np.testing.assert_array_equal(own.train.images, floats.astype(np.float32))
    assert len(own.validation) == 0


def test_npz_keeps_its_own_validation_images(tmp_path):
    arrays = stored_arrays()
    arrays |= {"x_val": arrays["x_test"][:3], "y_val": arrays["y_test"][:3]}
    np.savez(tmp_path / "own.npz", **arrays)
    own = load(name="own.npz", data_dir=tmp_path)
    assert [len(own.train), len(own.validation)] == [20, 3]
    np.testing.assert_array_equal(own.validation.images, own.test.images[:3])
    carved = load(name="own.npz", data_dir=tmp_path, validation_size=5)
    assert [len(carved.train), len(carved.validation)] == [15, 5]


def test_npz_ignores_arrays_that_it_does_not_know(tmp_path):
    np.savez(tmp_path / "own.npz", notes=np.array([{"made": "by hand"}]), **stored_arrays())
    assert len(load(name="own.npz", data_dir=tmp_path).test) == 8


BAD_ARRAYS = {
    "missing array": ({"y_test": None}, "no array y_test"),
    "half a validation": ({"x_val": np.zeros((2, 5, 6))}, "no array y_val"),
    "flat images": ({"x_train": np.zeros((20, 30))}, "split 'train'.*rank 2"),
    "one-hot labels": ({"y_test": np.eye(8, dtype=int)}, "split 'test'.*rank 2"),
    "float labels": ({"y_train": np.arange(20) / 2}, "split 'train'.*float64.*integers"),
    "negative label": ({"y_test": np.arange(8) - 1}, "split 'test'.*label -1 at image 0"),
    "unseen class": ({"y_test": np.full(8, 4)}, "split 'test'.*label 4 at image 0.*0 to 3"),
    "more labels": ({"y_test": np.zeros(9, int)}, "split 'test'.*8 images but 9 labels"),
    "more images": ({"y_train": np.zeros(19, int)}, "split 'train'.*20 images but 19 labels"),
    "other shape": ({"x_test": np.zeros((8, 5, 7))}, r"split 'test'.*\[5, 7, 1\].*\[5, 6, 1\]"),
    "large integers": ({"x_test": np.full((8, 5, 6), 256)}, "split 'test'.*256 to 256"),
    "text": ({"x_test": np.full((8, 5, 6), "a")}, "split 'test'.*type <U1"),
    "objects": ({"x_test": np.full((8, 5, 6), None)}, "numpy.savez"),
    "nothing": (
        {"x_test": np.zeros((0, 5, 6)), "y_test": np.zeros(0, int)},
        "split 'test'.*is empty",
    ),
    "nothing to train on": (
        {"x_train": np.zeros((0, 5, 6)), "y_train": np.zeros(0, int)},
        "split 'train'.*, which has 0",
    ),
    "a number": ({"x_train": np.array(5), "y_train": np.array(5)}, "split 'train'"),
}


@pytest.mark.parametrize(("change", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_npz_refuses_what_cannot_be_trained_on(tmp_path, change, message):
    arrays = stored_arrays() | change
    arrays = {key: value for key, value in arrays.items() if value is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(ValueError, match=message) as raised:
        load(name="own.npz", data_dir=tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_npz_refuses_pixels_that_are_not_finite(tmp_path, value):
    images = np.zeros((8, 5, 6))
    images[[3, 6], 1, 1] = value
    np.savez(tmp_path / "own.npz", **stored_arrays(x_test=images))
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="split 'test'.*in 2 images"):
        load(name="own.npz", data_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no zip at all"])
def test_npz_refuses_a_file_that_is_none(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(ValueError, match="Cannot read .*own.npz"):
        load(name="own.npz", data_dir=tmp_path)


def test_npz_refuses_a_damaged_file(tmp_path):
    np.savez(tmp_path / "own.npz", **stored_arrays())
    damaged = bytearray((tmp_path / "own.npz").read_bytes())
    damaged[400] ^= 1
    (tmp_path / "own.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match="Cannot read .*own.npz"):
        load(name="own.npz", data_dir=tmp_path)


def test_a_missing_npz_is_named():
    with pytest.raises(ValueError, match="There is no file 'nowhere.npz'"):
        load(name="nowhere.npz")


@pytest.mark.parametrize("name", ["digits", "digits_large", "own.npz"])
def test_image_size_is_refused_where_it_means_nothing(name):
    with pytest.raises(ValueError, match="image_size applies to TFDS sets"):
        load(name=name, image_size=32)


# Splits and held-out images


def test_held_out_images_are_disjoint_and_keep_their_labels():
    labels = np.arange(100)
    images = labels.reshape(-1, 1, 1)
    (kept, kept_labels), (held, held_labels) = hold_out(images, labels, 30, name="own")
    assert sorted(np.concatenate([kept_labels, held_labels]).tolist()) == list(range(100))
    assert len(held) == 30
    np.testing.assert_array_equal(kept[:, 0, 0], kept_labels)
    np.testing.assert_array_equal(held[:, 0, 0], held_labels)
    assert held_labels.tolist() != list(range(70, 100))


@pytest.mark.parametrize(("count", "held"), [(1, None), (5, 1), (200, 20), (60_000, 5_000)])
def test_the_default_validation_size(count, held):
    images, labels = np.zeros((count, 1, 1)), np.zeros(count, int)
    if held is None:
        with pytest.raises(ValueError, match="Cannot hold 1 images out"):
            hold_out(images, labels, None, name="own")
    else:
        assert len(hold_out(images, labels, None, name="own")[1][1]) == held


def test_a_dataset_checks_what_it_is_given():
    good = split_of(6)
    Dataset("own", good, good, good, num_classes=3)
    bad_type = Split(good.images.astype(np.float64), good.labels)
    bad_order = Split(np.asfortranarray(np.ones((6, 4, 4, 2), np.float32)), good.labels)
    bad_labels = Split(good.images, good.labels.astype(np.int64))
    for bad in (bad_type, bad_order, bad_labels):
        with pytest.raises(ValueError, match="split 'validation' of data set 'own' needs"):
            Dataset("own", good, bad, good, num_classes=3)
    with pytest.raises(ValueError, match="split 'train'.*label 2 at image 2.*0 to 1"):
        Dataset("own", good, good, good, num_classes=2)


def test_uint8_and_wider_integers_scale_alike():
    pixels = np.arange(256).reshape(1, 16, 16)
    labels = np.zeros(1, int)
    pairs = {
        key: (pixels.astype(kind), labels)
        for key, kind in (("train", np.uint8), ("validation", np.int64), ("test", np.int16))
    }
    own = dataset_from_arrays("own", pairs, num_classes=1)
    expected = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(1, 16, 16, 1)
    for split in (own.train, own.validation, own.test):
        np.testing.assert_array_equal(split.images, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_size": "5"}, r"data\.validation_size='5' must be an integer or None\."),
        ({"download": 1}, r"data\.download=1 must be True or False\."),
        ({"name": None}, r"data\.name=None must be a text in quotes\."),
    ],
)
def test_settings_of_another_type_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        DataSettings(**settings)
