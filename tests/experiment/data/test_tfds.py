"""TensorFlow Datasets: sets that these tests prepare on disk and `load_dataset` reads back."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from sparse_lib.experiment.data.feeding.pixels import Pixels
from sparse_lib.experiment.data.sources import tfds as own_tfds
from sparse_lib.experiment.data.sources.tfrecords import EncodedImages
from tests.experiment.data.loading import load
from tests.experiment.data.prepared import pictures, prepare, registered


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    images = {"train": pictures(60, (6, 5, 3), 0), "test": pictures(12, (6, 5, 3), 1)}
    prepare(data_dir, "tiny_set", images)
    return data_dir, images


def by_content(split):
    """Maps the bytes of an image to its label."""
    pixels = np.rint(split.images[:] * 255).astype(np.uint8)
    return {image.tobytes(): label for image, label in zip(pixels, split.labels, strict=True)}


def test_images_and_labels_come_back(tiny, tmp_path):
    data_dir, images = tiny
    found = load(name="tiny_set", data_dir=data_dir, cache_dir=tmp_path)
    assert found.input_shape == (6, 5, 3)
    assert found.num_classes == 3
    assert [len(found.train), len(found.validation), len(found.test)] == [54, 6, 12]
    assert found.train.images.dtype == np.float32
    assert found.train.labels.dtype == np.int32
    expected = {key: {x.tobytes(): i % 3 for i, x in enumerate(images[key])} for key in images}
    assert by_content(found.test) == expected["test"]
    assert by_content(found.train) | by_content(found.validation) == expected["train"]


def test_validation_images_are_not_trained_on(tiny, tmp_path):
    data_dir, _ = tiny
    found = load(name="tiny_set", data_dir=data_dir, cache_dir=tmp_path, validation_size=25)
    assert [len(found.train), len(found.validation)] == [35, 25]
    assert not set(by_content(found.train)) & set(by_content(found.validation))


def test_decoding_happens_once_and_a_new_preparation_counts(tiny, tmp_path, monkeypatch):
    data_dir, images = tiny
    first = load(name="tiny_set", data_dir=data_dir, cache_dir=tmp_path)
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    prepare(other_dir, "tiny_set", {key: 255 - images[key] for key in images})
    other = load(name="tiny_set", data_dir=other_dir, cache_dir=tmp_path)
    assert not set(by_content(other.test)) & set(by_content(first.test))

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_dataset", lambda *_, **__: pytest.fail("decoded again"))
    again = load(name="tiny_set", data_dir=data_dir, cache_dir=tmp_path)
    np.testing.assert_array_equal(again.train.images[:], first.train.images[:])
    np.testing.assert_array_equal(again.train.labels, first.train.labels)


def test_mnist_by_name(tmp_path):
    # The layout and version that the registered builder of the real set looks for.
    images = {"train": pictures(30, (28, 28, 1), 0), "test": pictures(10, (28, 28, 1), 1)}
    version = str(tfds.builder("mnist", data_dir=tmp_path).version)
    prepare(tmp_path, "mnist", images, shape=(28, 28, 1), classes=10, version=version)
    found = load(name="mnist", data_dir=tmp_path, cache_dir=tmp_path, validation_size=5)
    assert found.input_shape == (28, 28, 1)
    assert found.num_classes == 10
    assert [len(found.train), len(found.validation), len(found.test)] == [25, 5, 10]
    assert by_content(found.test) == {x.tobytes(): i for i, x in enumerate(images["test"])}


def test_a_set_that_names_no_pair_goes_by_image_and_label(tmp_path):
    examples = [
        (i, {"image": image, "label": i % 2, "note": "x"}) for i, image in enumerate(pictures(12, (4, 4, 1), 0))
    ]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(4, 4, 1)),
            "label": tfds.features.ClassLabel(num_classes=2),
            "note": tfds.features.Text(),
        }
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        "adhoc", "1.0.0", features, {"train": examples, "test": examples[:3]}, data_dir=tmp_path
    )
    found = load(name="adhoc", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert by_content(found.test) == {e["image"].tobytes(): e["label"] for _, e in examples[:3]}


@pytest.mark.parametrize(
    ("splits", "validation_size", "sizes"),
    [
        ({"train": 20, "validation": 4, "test": 6}, None, [20, 4, 6]),
        ({"train": 20, "validation": 4, "test": 6}, 5, [15, 5, 6]),
        ({"train": 20, "validation": 4}, None, [18, 2, 4]),
        ({"train": 20}, None, [17, 1, 2]),
        ({"train": 20, "test": 6, "extra": 9}, 0, [20, 0, 6]),
    ],
)
def test_which_split_is_what(tmp_path, splits, validation_size, sizes):
    images = {key: pictures(n, (4, 4, 1), i) for i, (key, n) in enumerate(splits.items())}
    prepare(tmp_path, "parts", images, shape=(4, 4, 1))
    found = load(name="parts", data_dir=tmp_path, cache_dir=tmp_path, validation_size=validation_size)
    parts = [by_content(part) for part in (found.train, found.validation, found.test)]
    assert [len(part) for part in parts] == sizes
    assert len(parts[0] | parts[1] | parts[2]) == sum(sizes)
    if "test" in splits:
        assert set(parts[2]) == {image.tobytes() for image in images["test"]}


def test_images_of_different_sizes_are_brought_to_one(tmp_path):
    # A bright square between dark bars along the longer side: cropping keeps the square alone.
    wide, tall = np.zeros((8, 16, 3), np.uint8), np.zeros((24, 12, 3), np.uint8)
    wide[:, 4:12], tall[6:18] = 200, 100
    prepare(tmp_path, "sizes", {"train": [wide, tall] * 6, "test": [wide]}, shape=(None, None, 3))
    with pytest.raises(ValueError, match="differ in size: set data.image_size"):
        load(name="sizes", data_dir=tmp_path, cache_dir=tmp_path)
    found = load(name="sizes", data_dir=tmp_path, cache_dir=tmp_path, image_size=4)
    assert found.input_shape == (4, 4, 3)
    np.testing.assert_allclose(found.test.images[:], 200 / 255, rtol=1e-6)
    values = np.unique(found.train.images[:])
    np.testing.assert_allclose(values, [100 / 255, 200 / 255], rtol=1e-6)


def test_a_set_that_is_not_prepared_says_how_to_get_it(tmp_path, caplog):
    with pytest.raises(ValueError, match="'mnist' is not prepared in") as raised:
        load(name="mnist", data_dir=tmp_path)
    message = str(raised.value)
    assert f"tfds.load('mnist', data_dir='{tmp_path}')" in message
    assert "data.download=True" in message
    assert "'mnist_5k'" in message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def offline(self, **kwargs):
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    with pytest.raises(ValueError, match=r"Cannot download .* no route to host\. Try") as raised:
        load(name="mnist", data_dir=tmp_path, download=True)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["no_such_set", "digit", "../mnist", "mnist:9.9.9", "a b"])
def test_an_unknown_name_is_one_line(tmp_path, name):
    with pytest.raises(ValueError, match="use (an|the) embedded .*mnist_5k") as raised:
        load(name=name, data_dir=tmp_path)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_set_without_classes_is_refused(tmp_path):
    images = {"train": pictures(12, (4, 4, 1), 0), "test": pictures(3, (4, 4, 1), 1)}
    prepare(tmp_path, "numbers", images, shape=(4, 4, 1), label=tfds.features.Scalar(dtype=np.int64))
    with pytest.raises(ValueError, match="'numbers' is no image classification"):
        load(name="numbers", data_dir=tmp_path, cache_dir=tmp_path)


def test_a_set_without_train_is_refused(tmp_path):
    prepare(tmp_path, "only_test", {"test": pictures(3, (4, 4, 1), 1)}, shape=(4, 4, 1))
    with pytest.raises(ValueError, match="no split 'train', only"):
        load(name="only_test", data_dir=tmp_path, cache_dir=tmp_path)


def test_a_set_that_exceeds_the_memory_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda key: 50)
    with pytest.raises(ValueError, match="smaller data.image_size"):
        load(name="tiny_set", data_dir=tiny[0], cache_dir=tmp_path)


@pytest.mark.parametrize("kept", [0, 300])
def test_a_damaged_set_is_refused_and_not_cached(tmp_path, kept):
    images = {"train": pictures(20, (6, 5, 3), 0), "test": pictures(4, (6, 5, 3), 1)}
    builder = prepare(tmp_path / "sets", "broken", images)
    (record,) = builder.data_path.glob("broken-train.tfrecord*")
    content = record.read_bytes()
    record.write_bytes(content[:kept])
    with pytest.raises(ValueError, match="split 'train' of data set 'broken' is damaged: delete"):
        load(name="broken", data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_resizing_keeps_grey_levels():
    image = tf.constant(pictures(1, (7, 7, 1), 0)[0])
    feature = tfds.features.Image(shape=(None, None, 1))
    resized = own_tfds.resize_to_square(image, 5, feature)
    assert resized.dtype == tf.uint8
    assert resized.shape == (5, 5, 1)


# The sets of the large experiments, in the layout and version that the registered builders look for


@pytest.mark.parametrize(("name", "classes", "mean"), [("cifar10", 10, 0.4914), ("cifar100", 100, 0.5071)])
def test_cifar_by_name(tmp_path, name, classes, mean):
    images = {"train": pictures(120, (32, 32, 3), 0), "test": pictures(20, (32, 32, 3), 1)}
    registered(tmp_path, name, images, shape=(32, 32, 3), classes=classes)
    found = load(name=name, data_dir=tmp_path, cache_dir=tmp_path, validation_size=15)
    assert (found.input_shape, found.num_classes, found.augmentation) == ((32, 32, 3), classes, "crop_flip")
    assert [len(found.train), len(found.validation), len(found.test)] == [105, 15, 20]
    for split in (found.train, found.validation, found.test):
        assert isinstance(split.images, Pixels)
        assert split.images.values.dtype == np.uint8
    contents = [{image.tobytes() for image in split.images.values} for split in (found.train, found.validation)]
    assert not contents[0] & contents[1]
    assert contents[0] | contents[1] == {image.tobytes() for image in images["train"]}
    red = {image.tobytes(): label for image, label in zip(found.test.images.values, found.test.labels, strict=True)}
    assert red == {image.tobytes(): i % classes for i, image in enumerate(images["test"])}
    np.testing.assert_allclose(found.test.images.offset[0, 0, 0, 0], 255 * mean, rtol=1e-6)
    plain = load(name=name, data_dir=tmp_path, cache_dir=tmp_path, preprocessing="unit", augmentation=None)
    assert plain.augmentation is None
    np.testing.assert_allclose(np.sort(plain.test.images[:].ravel()), np.sort(images["test"].ravel() / 255), rtol=1e-6)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)

    def photographs(count):
        # One colour each, so that a picture is known again after crops and JPEG.
        colours = rng.permutation(200)[:count]
        sizes = rng.integers(20, 60, (count, 2))
        return [np.full((*size, 3), 40 + colour, np.uint8) for size, colour in zip(sizes, colours, strict=True)]

    splits = {"train": photographs(60), "validation": photographs(20), "test": photographs(10)}
    registered(
        data_dir, "imagenet2012", splits, shape=(None, None, 3), classes=1000, encoding="jpeg", unlabelled={"test"}
    )
    return data_dir, splits


def levels(split, image_size=8):
    """Grey level of each picture."""
    found = split.images[:] * np.multiply(255, (0.229, 0.224, 0.225)) + np.multiply(255, (0.485, 0.456, 0.406))
    assert found.shape == (len(split), image_size, image_size, 3)
    # A whole number for all pixels but those of rounding in JPEG.
    assert np.ptp(found, axis=(1, 2, 3)).max() < 3
    return np.rint(found.mean((1, 2, 3))).astype(int).tolist()


def test_imagenet_by_name(imagenet, tmp_path):
    data_dir, splits = imagenet
    found = load(name="imagenet2012", data_dir=data_dir, cache_dir=tmp_path, image_size=8, validation_size=6)
    assert (found.input_shape, found.num_classes, found.augmentation) == ((8, 8, 3), 1000, "inception")
    for split in (found.train, found.validation, found.test):
        assert isinstance(split.images, EncodedImages)
        assert split.images.preprocessing.legacy_bicubic
    # Its test split has no labels: what is tested on are the validation images.
    assert [len(found.train), len(found.validation), len(found.test)] == [54, 6, 20]
    stored = {key: [int(image[0, 0, 0]) for image in images] for key, images in splits.items()}
    seen = {key: levels(getattr(found, key)) for key in ("train", "validation", "test")}
    assert not set(seen["train"]) & set(seen["validation"])
    assert sorted(seen["train"] + seen["validation"]) == sorted(stored["train"])
    assert sorted(seen["test"]) == sorted(stored["validation"])
    for key, source in (("train", "train"), ("validation", "train"), ("test", "validation")):
        labels = dict(zip(stored[source], range(60), strict=False))
        assert getattr(found, key).labels.tolist() == [labels[level] for level in seen[key]]


def test_imagenet_is_indexed_once_and_224_pixels_wide(imagenet, tmp_path, monkeypatch):
    first = load(name="imagenet2012:5.*.*", data_dir=imagenet[0], cache_dir=tmp_path)
    assert first.input_shape == (224, 224, 3)
    assert [len(first.train), len(first.validation)] == [54, 6]
    monkeypatch.setattr(own_tfds, "index_records", lambda *_: pytest.fail("indexed again"))
    again = load(name="imagenet2012", data_dir=imagenet[0], cache_dir=tmp_path)
    np.testing.assert_array_equal(again.train.labels, first.train.labels)
    np.testing.assert_array_equal(again.train.images.index["offset"], first.train.images.index["offset"])


def test_imagenet_may_be_taken_into_memory_at_a_small_size(imagenet, tmp_path):
    small = load(name="imagenet2012", data_dir=imagenet[0], cache_dir=tmp_path, image_size=8, on_disk=False)
    assert isinstance(small.train.images, Pixels)
    assert small.augmentation is None
    assert sorted(levels(small.test)) == sorted(int(image[0, 0, 0]) for image in imagenet[1]["validation"])


def test_losses_are_reported_of_a_part_of_the_training_images_on_disk(imagenet, tmp_path, monkeypatch):
    found = load(name="imagenet2012", data_dir=imagenet[0], cache_dir=tmp_path, image_size=8)
    monkeypatch.setattr("sparse_lib.experiment.data.dataset.REPORTED", 10)
    reported = found.reported
    assert [len(reported[key]) for key in ("train", "validation", "test")] == [10, 6, 20]
    np.testing.assert_array_equal(reported["train"].labels, found.train.labels[:10])
    np.testing.assert_array_equal(reported["train"].images[:], found.train.images[:10])


def test_any_set_may_stay_on_disk(tmp_path):
    images = {"train": pictures(30, (9, 9, 3), 0), "test": pictures(5, (9, 9, 3), 1)}
    prepare(tmp_path, "patterns", images, shape=(9, 9, 3))
    found = load(name="patterns", data_dir=tmp_path, cache_dir=tmp_path, image_size=7, on_disk=True)
    assert found.augmentation is None
    # 0.875 of 9 is 7: lossless PNGs come back as they are.
    expected = {image[1:8, 1:8].tobytes() for image in images["test"]}
    assert {np.rint(255 * image).astype(np.uint8).tobytes() for image in found.test.images[:]} == expected


@pytest.mark.parametrize("name", ["imagenet2012", "cifar10"])
def test_a_large_set_that_is_not_prepared_is_one_line(tmp_path, name):
    with pytest.raises(ValueError, match=f"'{name}' is not prepared in") as raised:
        load(name=name, data_dir=tmp_path)
    assert "\n" not in str(raised.value)


def test_other_files_than_tfrecord_are_refused_on_disk(tmp_path):
    prepare(tmp_path, "rows", {"train": pictures(9, (8, 8, 3), 0)}, shape=(8, 8, 3), file_format="array_record")
    with pytest.raises(ValueError, match="'rows' is stored as array_record.*file_format='tfrecord'"):
        load(name="rows", data_dir=tmp_path, cache_dir=tmp_path, on_disk=True)


def test_an_incomplete_set_on_disk_is_refused(tmp_path):
    images = {"train": pictures(20, (6, 5, 3), 0), "test": pictures(4, (6, 5, 3), 1)}
    builder = prepare(tmp_path / "sets", "lost", images)
    (record,) = builder.data_path.glob("lost-test.tfrecord*")
    record.write_bytes(b"")
    with pytest.raises(ValueError, match="'lost' has 20 of 24 images: delete"):
        load(name="lost", data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache", on_disk=True, image_size=5)
    assert not (tmp_path / "cache").exists()
