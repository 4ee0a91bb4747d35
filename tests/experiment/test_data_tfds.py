"""TensorFlow Datasets: sets that these tests prepare on disk and `load_dataset` reads back."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from sparse_lib.experiment.data import load_dataset
from sparse_lib.experiment.data import tfds as own_tfds


def pictures(count, shape, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def prepare(data_dir, name, splits, *, shape=(6, 5, 3), classes=3, label=None, version="1.0.0"):
    """Writes a TFDS set as its own tools do; `splits` maps names to lists of images.

    Image `i` of a split has the label `i % classes`.
    """

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=shape),
                "label": label or tfds.features.ClassLabel(num_classes=classes),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {key: self._generate_examples(images) for key, images in splits.items()}

        def _generate_examples(self, images):
            for position, image in enumerate(images):
                yield position, {"image": image, "label": position % classes}

    Prepared.name = name
    builder = Prepared(data_dir=data_dir)
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    images = {"train": pictures(60, (6, 5, 3), 0), "test": pictures(12, (6, 5, 3), 1)}
    prepare(data_dir, "tiny_set", images)
    return data_dir, images


def by_content(split):
    """Maps the bytes of an image to its label."""
    pixels = np.rint(split.images * 255).astype(np.uint8)
    return {image.tobytes(): label for image, label in zip(pixels, split.labels, strict=True)}


def test_images_and_labels_come_back(tiny, tmp_path):
    data_dir, images = tiny
    found = load_dataset(name="tiny_set", data_dir=data_dir, cache_dir=tmp_path)
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
    found = load_dataset(name="tiny_set", data_dir=data_dir, cache_dir=tmp_path, validation_size=25)
    assert [len(found.train), len(found.validation)] == [35, 25]
    assert not set(by_content(found.train)) & set(by_content(found.validation))


def test_decoding_happens_once_and_a_new_preparation_counts(tiny, tmp_path, monkeypatch):
    data_dir, images = tiny
    first = load_dataset(name="tiny_set", data_dir=data_dir, cache_dir=tmp_path)
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    prepare(other_dir, "tiny_set", {key: 255 - images[key] for key in images})
    other = load_dataset(name="tiny_set", data_dir=other_dir, cache_dir=tmp_path)
    assert not set(by_content(other.test)) & set(by_content(first.test))

    monkeypatch.setattr(own_tfds, "_batches", lambda *_: pytest.fail("decoded again"))
    again = load_dataset(name="tiny_set", data_dir=data_dir, cache_dir=tmp_path)
    np.testing.assert_array_equal(again.train.images, first.train.images)
    np.testing.assert_array_equal(again.train.labels, first.train.labels)


def test_mnist_by_name(tmp_path):
    # The layout and version that the registered builder of the real set looks for.
    images = {"train": pictures(30, (28, 28, 1), 0), "test": pictures(10, (28, 28, 1), 1)}
    version = str(tfds.builder("mnist", data_dir=tmp_path).version)
    prepare(tmp_path, "mnist", images, shape=(28, 28, 1), classes=10, version=version)
    found = load_dataset(name="mnist", data_dir=tmp_path, cache_dir=tmp_path, validation_size=5)
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
    found = load_dataset(name="adhoc", data_dir=tmp_path, cache_dir=tmp_path / "cache")
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
    found = load_dataset(name="parts", data_dir=tmp_path, cache_dir=tmp_path, validation_size=validation_size)
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
        load_dataset(name="sizes", data_dir=tmp_path, cache_dir=tmp_path)
    found = load_dataset(name="sizes", data_dir=tmp_path, cache_dir=tmp_path, image_size=4)
    assert found.input_shape == (4, 4, 3)
    np.testing.assert_allclose(found.test.images, 200 / 255, rtol=1e-6)
    values = np.unique(found.train.images)
    np.testing.assert_allclose(values, [100 / 255, 200 / 255], rtol=1e-6)


def test_a_set_that_is_not_prepared_says_how_to_get_it(tmp_path, caplog):
    with pytest.raises(ValueError, match="'mnist' is not prepared in") as raised:
        load_dataset(name="mnist", data_dir=tmp_path)
    message = str(raised.value)
    assert f"tfds.load('mnist', data_dir='{tmp_path}')" in message
    assert "data.download=True" in message
    assert "'digits'" in message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def offline(self, **kwargs):
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    with pytest.raises(ValueError, match=r"Cannot download .* no route to host\. Try") as raised:
        load_dataset(name="mnist", data_dir=tmp_path, download=True)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["no_such_set", "digit", "../mnist", "mnist:9.9.9", "a b"])
def test_an_unknown_name_is_one_line(tmp_path, name):
    with pytest.raises(ValueError, match="use the embedded 'digits'") as raised:
        load_dataset(name=name, data_dir=tmp_path)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_set_without_classes_is_refused(tmp_path):
    images = {"train": pictures(12, (4, 4, 1), 0), "test": pictures(3, (4, 4, 1), 1)}
    prepare(tmp_path, "numbers", images, shape=(4, 4, 1), label=tfds.features.Scalar(dtype=np.int64))
    with pytest.raises(ValueError, match="'numbers' is no image classification"):
        load_dataset(name="numbers", data_dir=tmp_path, cache_dir=tmp_path)


def test_a_set_without_train_is_refused(tmp_path):
    prepare(tmp_path, "only_test", {"test": pictures(3, (4, 4, 1), 1)}, shape=(4, 4, 1))
    with pytest.raises(ValueError, match="no split 'train', only"):
        load_dataset(name="only_test", data_dir=tmp_path, cache_dir=tmp_path)


def test_a_set_that_exceeds_the_memory_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda key: 100)
    with pytest.raises(ValueError, match="smaller data.image_size"):
        load_dataset(name="tiny_set", data_dir=tiny[0], cache_dir=tmp_path)


@pytest.mark.parametrize("kept", [0, 300])
def test_a_damaged_set_is_refused_and_not_cached(tmp_path, kept):
    images = {"train": pictures(20, (6, 5, 3), 0), "test": pictures(4, (6, 5, 3), 1)}
    builder = prepare(tmp_path / "sets", "broken", images)
    (record,) = builder.data_path.glob("broken-train.tfrecord*")
    content = record.read_bytes()
    record.write_bytes(content[:kept])
    with pytest.raises(ValueError, match="split 'train' of data set 'broken' is damaged: delete"):
        load_dataset(name="broken", data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_resizing_keeps_grey_levels():
    image = tf.constant(pictures(1, (7, 7, 1), 0)[0])
    feature = tfds.features.Image(shape=(None, None, 1))
    resized = own_tfds._resized(image, 5, feature)
    assert resized.dtype == tf.uint8
    assert resized.shape == (5, 5, 1)
