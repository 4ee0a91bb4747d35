"""What a network sees of pixels, and how training images in memory are varied; references in numpy."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.experiment.data import Split
from sparse_lib.experiment.data.feeding import augmentation as variations
from sparse_lib.experiment.data.feeding.pixels import Pixels, pixels
from sparse_lib.experiment.data.feeding.preprocessing import NAMES, preprocessing
from sparse_lib.experiment.data.feeding.resident import Resident
from tests.experiment.data.loading import load
from tests.golden_values import GOLDEN

CIFAR_MEAN, CIFAR_STD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])


def pictures(count: int = 7, shape: tuple[int, ...] = (8, 6, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def standardized(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float64)
    return (image - image.mean()) / max(image.std(), image.size**-0.5)


DEFINITIONS = {
    "unit": lambda x: x / 255,
    "mean_std": lambda x: (x / 255 - CIFAR_MEAN) / CIFAR_STD,
    "per_image": lambda x: np.stack([standardized(image) for image in x]),
    "symmetric": lambda x: x / 127.5 - 1,
    "caffe": lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68]),
    "rigl": lambda x: np.stack([standardized(image) for image in x]),
}


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_read_as_defined(name):
    values = pictures()
    images = pixels(values, preprocessing(name, "cifar10"))
    expected = DEFINITIONS[name](values)
    assert images.dtype == np.float32
    assert images.shape == values.shape
    np.testing.assert_allclose(images[:], expected, rtol=2e-5, atol=2e-6)
    for rows in (slice(2, 5), slice(-3, None), np.array([6, 0, 0]), [1], 4, -1):
        np.testing.assert_array_equal(images[rows], images[:][rows])
    np.testing.assert_array_equal(np.asarray(images), images[:])
    assert tf.constant(images).dtype == tf.float32


def test_pixels_take_a_byte_each():
    values = pictures(50, (32, 32, 3))
    images = pixels(values, preprocessing("mean_std", "cifar10"))
    assert images.values.dtype == np.uint8
    assert images.values is values
    assert images.offset.size == images.scale.size == 3


def test_per_image_standardization_is_that_of_tensorflow_and_of_the_published_code():
    stored = np.load(GOLDEN / "tf1" / "wrn_16_1" / "io.npz")
    images = pixels(stored["images_uint8"], preprocessing("rigl", "cifar10"))
    np.testing.assert_allclose(images[:], stored["images_standardized"], atol=2e-6)
    flat = np.full((2, 8, 8, 3), 7, np.uint8)
    flat[1, 0, 0, 0] = 8
    expected = tf.image.per_image_standardization(tf.constant(flat, tf.float32))
    np.testing.assert_allclose(pixels(flat, preprocessing("per_image", "any"))[:], expected, atol=1e-4)


def test_normalised_training_images_have_mean_0_and_deviation_1():
    # Pixels with exactly the published statistics.
    mean, std = 255 * CIFAR_MEAN, 255 * CIFAR_STD
    values = np.stack([mean - std, mean + std])[:, None, None]
    spread = (values - mean) / std
    images = pixels(np.rint(values).astype(np.uint8), preprocessing("mean_std", "cifar10"))
    np.testing.assert_allclose(images[:], spread, atol=0.01)


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("mean_std", "flowers", "'flowers' has none"),
        ("rigl", "mnist", "known for cifar10, cifar100 and imagenet2012, not for 'mnist'"),
        ("whiten", "cifar10", "'whiten' is not known: choose one of unit, per_image"),
    ],
)
def test_what_is_not_defined_is_refused(name, dataset, message):
    with pytest.raises(ValueError, match=message):
        preprocessing(name, dataset)


# Augmentation


def cropped_and_flipped(images: np.ndarray, draws: np.ndarray, pad: int) -> np.ndarray:
    """Image by image, with numpy's own padding."""
    height, width = images.shape[1:3]
    made = []
    for image, (top, left, mirrored) in zip(images, draws, strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
        cut = padded[top : top + height, left : left + width]
        made.append(cut[:, ::-1] if mirrored else cut)
    return np.stack(made)


@pytest.mark.parametrize("pad", [4, 1])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_crop_and_flip_equal_a_reference_by_hand(pad, kind):
    images = pictures(200, (9, 7, 3)).astype(kind)
    draws = variations.crop_flip_draws(1, 5, 200, pad)
    made = variations.crop_flip(tf.constant(images), tf.constant(draws), pad)
    np.testing.assert_array_equal(made, cropped_and_flipped(images, draws, pad))


def test_draws_are_even_and_a_function_of_seed_and_step():
    draws = variations.crop_flip_draws(0, 3, 90_000)
    for column, kinds in ((0, 9), (1, 9), (2, 2)):
        counts = np.bincount(draws[:, column], minlength=kinds)
        assert len(counts) == kinds
        # Five standard deviations of a binomial.
        assert np.abs(counts - 90_000 / kinds).max() < 5 * np.sqrt(90_000 / kinds)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.02
    again, later, other = (variations.crop_flip_draws(seed, step, 90_000) for seed, step in ((0, 3), (0, 4), (1, 3)))
    np.testing.assert_array_equal(again, draws)
    for different in (later, other):
        assert 0.4 < np.mean(different[:, 2] == draws[:, 2]) < 0.6


@pytest.mark.parametrize("name", ["floats", *NAMES])
def test_a_batch_on_the_device_is_what_evaluation_reads(name):
    values = pictures(20)
    images = (values / 255).astype(np.float32) if name == "floats" else pixels(values, preprocessing(name, "cifar10"))
    split = Split(images, np.arange(20, dtype=np.int32))
    resident = Resident(split, augmentation=None, seed=0)
    rows = np.array([3, 19, 3, 0, 7, 12], np.int32)
    orders = tf.constant(resident.orders(rows[None], 9)[0])
    for got, labels in (tf.function(resident.batch, jit_compile=True)(orders), resident.batch(orders)):
        np.testing.assert_array_equal(labels, rows)
        np.testing.assert_array_equal(got, split.images[rows])


@pytest.mark.parametrize("name", ["unit", "per_image"])
def test_an_augmented_batch_is_normalised_then_cut_however_it_is_shared_out(name):
    images = pixels(pictures(20), preprocessing(name, "cifar10"))
    resident = Resident(Split(images, np.zeros(20, np.int32)), augmentation="crop_flip", seed=4)
    rows = np.array([[3, 19, 3, 0, 7, 12], [1, 2, 3, 4, 5, 6], [3, 19, 3, 0, 7, 12]], np.int32)
    orders = tf.constant(resident.orders(rows, 9))
    whole, _ = resident.batch(orders[0])
    expected = cropped_and_flipped(images[rows[0]], variations.crop_flip_draws(4, 9, 6), 4)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(tf.function(resident.batch, jit_compile=True)(orders[0])[0], expected)
    parts = [resident.batch(orders[0, start : start + 2])[0] for start in (0, 2, 4)]
    np.testing.assert_array_equal(tf.concat(parts, 0), whole)
    assert not np.array_equal(resident.batch(orders[2])[0], whole)
    np.testing.assert_array_equal(resident.orders(rows[2:], 11), orders[2:])


# By name


def test_bytes_of_an_npz_may_be_preprocessed_and_varied(tmp_path):
    values = pictures(30)
    np.savez(
        tmp_path / "own.npz", x_train=values, y_train=np.arange(30) % 3, x_test=values[:4], y_test=np.zeros(4, int)
    )
    own = load(
        name="own.npz", data_dir=tmp_path, validation_size=5, preprocessing="per_image", augmentation="crop_flip"
    )
    assert own.augmentation == "crop_flip"
    assert isinstance(own.train.images, Pixels)
    np.testing.assert_allclose(own.test.images[:], DEFINITIONS["per_image"](values[:4]), rtol=1e-5, atol=1e-6)
    plain = load(name="own.npz", data_dir=tmp_path)
    assert plain.augmentation is None
    assert isinstance(plain.train.images, np.ndarray)


def test_floats_of_an_npz_are_not_preprocessed(tmp_path):
    values = pictures(30) / 255
    np.savez(
        tmp_path / "own.npz", x_train=values, y_train=np.arange(30) % 3, x_test=values[:4], y_test=np.zeros(4, int)
    )
    with pytest.raises(ValueError, match="stored as uint8, and split 'train' of data set 'own.npz' has float64"):
        load(name="own.npz", data_dir=tmp_path, preprocessing="per_image")


def test_digits_may_be_varied_and_are_in_0_to_1():
    plain, varied = load(), load(augmentation="crop_flip")
    assert (plain.augmentation, varied.augmentation) == (None, "crop_flip")
    np.testing.assert_array_equal(plain.train.images, varied.train.images)
    with pytest.raises(ValueError, match="does not apply to 'digits'"):
        load(preprocessing="per_image")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"augmentation": "mixup"}, "'mixup' is not known: choose crop_flip or inception or None"),
        ({"augmentation": "inception"}, "set data.on_disk=True, for a TFDS set"),
        ({"name": "own.npz", "on_disk": True}, "on_disk applies to TFDS sets, not to 'own.npz'"),
        ({"name": "imagenet2012", "augmentation": "crop_flip"}, "for images in memory: choose 'inception'"),
        ({"name": "mnist", "preprocessing": "rigl"}, "not for 'mnist'"),
    ],
)
def test_conventions_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        load(**arguments)
    assert "\n" not in str(raised.value)
