"""Images that stay encoded on disk: found, decoded, cut and fed."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.experiment.data import Split, batch_indices
from sparse_lib.experiment.data.feeding import decoding
from sparse_lib.experiment.data.feeding.pixels import pixels
from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing, preprocessing
from sparse_lib.experiment.data.feeding.stream import TrainingStream, image_seeds
from sparse_lib.experiment.data.sources.tfrecords import EncodedImages, index_records
from tests.golden_values import GOLDEN

FIXTURE = GOLDEN / "tf1" / "preprocessing"
PUBLISHED = preprocessing("rigl", "imagenet2012")
GREY_LEVELS = Preprocessing(std=(1.0,))


def scenes(count: int = 11) -> list[np.ndarray]:
    """Smooth pictures of different sizes, so that JPEG keeps them nearly as they are."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        height, width = 20 + 7 * (index % 3), 18 + 5 * (index % 4)
        corners = rng.uniform(0, 255, (1, 3, 3, 3)).astype(np.float32)
        made.append(np.rint(tf.image.resize(corners, (height, width))[0]).astype(np.uint8))
    return made


def record(encoded: bytes, label: int) -> bytes:
    def values(**kind):
        return tf.train.Feature(**{f"{name}_list": value for name, value in kind.items()})

    features = {
        "image": values(bytes=tf.train.BytesList(value=[encoded])),
        "label": values(int64=tf.train.Int64List(value=[label])),
        "file_name": values(bytes=tf.train.BytesList(value=[b"n0_0.JPEG"])),
        "weight": values(float=tf.train.FloatList(value=[0.5, 1.5])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def written(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in records:
            writer.write(each)
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Split and its pictures as they lie, encoded, in three files, one of them empty."""
    folder = tmp_path_factory.mktemp("records")
    encoded = [tf.io.encode_jpeg(image, quality=95).numpy() for image in scenes()]
    records = [record(image, 3 * i - 1) for i, image in enumerate(encoded)]
    parts = {"a": records[:4], "b": [], "c": records[4:]}
    files = [written(folder / name, part) for name, part in parts.items()]
    index = index_records(files, "image", "label")
    labels = index.pop("label")
    return Split(EncodedImages(files, index, 16, 3, GREY_LEVELS), labels.astype(np.int32)), encoded


# The index


def test_records_are_found_where_they_lie(stored):
    split, encoded = stored
    assert split.images.index["shard"].tolist() == [0] * 4 + [2] * 7
    assert split.images.read(np.arange(11)) == encoded
    assert split.images.read(np.array([7, 0, 7])) == [encoded[7], encoded[0], encoded[7]]
    assert split.labels.tolist() == [3 * i - 1 for i in range(11)]


def test_an_integer_that_is_not_packed_is_read(tmp_path):
    plain = record(b"the image", 300)
    packed, unpacked = b"\x1a\x04\x0a\x02\xac\x02", b"\x1a\x03\x08\xac\x02"
    assert packed in plain
    # One byte less in the list, the feature, the entry and the map.
    example = tf.train.Example.FromString(plain)
    entries = b""
    for name, feature in example.features.feature.items():
        content = feature.SerializeToString().replace(packed, unpacked)
        entry = b"\x0a" + bytes([len(name)]) + name.encode() + b"\x12" + bytes([len(content)]) + content
        entries += b"\x0a" + bytes([len(entry)]) + entry
    rewritten = b"\x0a" + bytes([len(entries)]) + entries
    assert unpacked in rewritten
    assert tf.train.Example.FromString(rewritten) == example
    index = index_records([written(tmp_path / "one", [rewritten])], "image", "label")
    assert index["label"].tolist() == [300]
    assert index["length"].tolist() == [len(b"the image")]


@pytest.mark.parametrize("damage", ["cut", "other", "noise", "no label"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = written(tmp_path / "set-00000", [record(b"x" * 50, 1), record(b"y" * 50, 2)])
    content = path.read_bytes()
    if damage == "no label":
        path = written(path, [tf.train.Example().SerializeToString()])
    else:
        path.write_bytes({"cut": content[:-9], "other": b"PNG" * 40, "noise": content[:30] + b"\xff" * 90}[damage])
    with pytest.raises(ValueError, match=r"set-00000 is damaged, or holds no labelled images: prepare") as raised:
        index_records([path], "image", "label")
    assert "\n" not in str(raised.value)


# Decoding


@pytest.mark.parametrize("case", [0, 1, 2])
def test_evaluation_images_are_those_of_the_published_code(case):
    encoded = (FIXTURE / f"case{case}.jpg").read_bytes()
    expected = np.load(FIXTURE / "resized.npz")[f"case{case}"]
    plain = Preprocessing(std=(1.0,), legacy_bicubic=True)
    found = decoding.evaluation_image(tf.constant(encoded), 224, 3, plain)
    np.testing.assert_array_equal(found[::7, ::7], expected)
    mean, std = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
    seen = decoding.evaluation_image(tf.constant(encoded), 224, 3, PUBLISHED)
    np.testing.assert_allclose(seen[::7, ::7], (expected - mean) / std, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(20, 31), (33, 24), (17, 17)])
def test_the_central_square_is_cut_out(height, width):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = int(0.875 * min(height, width))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    # PNG is lossless, and an image of the right size is not resized.
    found = decoding.evaluation_image(tf.io.encode_png(image), side, 3, GREY_LEVELS)
    np.testing.assert_array_equal(found, image[top : top + side, left : left + side])


def test_grey_images_stay_grey_and_become_colour_where_asked():
    image = np.full((16, 16, 1), 90, np.uint8)
    for encoded in (tf.io.encode_jpeg(image), tf.io.encode_png(image)):
        for channels in (1, 3):
            found = decoding.evaluation_image(encoded, 8, channels, GREY_LEVELS)
            np.testing.assert_allclose(found, np.full((8, 8, channels), 90), atol=1e-4)


@pytest.mark.parametrize("name", ["symmetric", "caffe", "per_image"])
def test_encoded_images_are_normalised_as_pixels_in_memory_are(name):
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    kind = preprocessing(name, "own")
    found = decoding.normalise(tf.constant(image, tf.float32), kind)
    np.testing.assert_allclose(found, pixels(image[None], kind)[0], atol=2e-6)


def seeds(count, seed=3):
    return image_seeds(seed, tf.range(count, dtype=tf.int64))


def test_inception_crops_keep_their_bounds_and_vary():
    shape = np.array([50, 70])
    draw = tf.function(lambda seed: decoding.inception_window(tf.constant(shape, tf.int32), seed), autograph=False)
    windows = np.stack([draw(seed) for seed in seeds(1000)])
    begin, extent = windows[:, :2], windows[:, 2:]
    assert (begin >= 0).all()
    assert (begin + extent <= shape).all()
    area, ratio = extent.prod(1) / shape.prod(), extent[:, 1] / extent[:, 0]
    # Sides are whole pixels; the smallest ones are about 16 long.
    assert 0.1 <= area.min() < 0.13
    assert 0.85 < area.max() <= 1
    assert 3 / 4 - 0.05 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 4 / 3 + 0.05
    assert len(np.unique(windows, axis=0)) > 900
    assert np.abs(np.corrcoef(begin[:, 0] / (51 - extent[:, 0]), begin[:, 1] / (71 - extent[:, 1]))[0, 1]) < 0.15


def test_an_image_that_no_crop_fits_gives_its_central_square():
    shape = tf.constant([4, 400])
    for seed in seeds(5):
        assert decoding.inception_window(shape, seed).numpy().tolist() == [1, 199, 3, 3]


def test_a_training_image_is_a_window_resized_and_mirrored_in_half_of_the_cases():
    image = scenes()[5]
    encoded = tf.io.encode_png(image)
    mirrored = 0
    for seed in seeds(60):
        box_seed, _ = tf.unstack(tf.random.split(seed, 2, alg="philox"))
        top, left, height, width = decoding.inception_window(tf.constant(image.shape[:2]), box_seed).numpy()
        window = image[top : top + height, left : left + width]
        expected = tf.image.resize(window, (12, 12), antialias=True).numpy()
        found = decoding.training_image(encoded, seed, 12, 3, GREY_LEVELS).numpy()
        is_mirrored = not np.allclose(found, expected, atol=1e-3)
        np.testing.assert_allclose(found, expected[:, ::-1] if is_mirrored else expected, atol=1e-3)
        mirrored += is_mirrored
    assert 15 < mirrored < 45


def test_a_part_of_a_jpeg_decodes_to_that_part_of_the_whole():
    image = (FIXTURE / "case1.jpg").read_bytes()
    whole = tf.io.decode_jpeg(image, dct_method="INTEGER_FAST").numpy()
    window = tf.constant([37, 21, 128, 96])
    part = decoding.decode_window(tf.constant(image), lambda shape: window, 3).numpy().astype(int)
    assert np.abs(part - whole[37:165, 21:117]).max() <= 1


# Reading like an array


def test_images_on_disk_read_like_an_array(stored):
    images = stored[0].images
    assert images.shape == (11, 16, 16, 3)
    assert len(images) == 11
    everything = images[:]
    assert everything.dtype == np.float32
    for rows in (slice(3, 9, 2), slice(-2, None), slice(0, 0), np.array([9, 2, 9]), np.arange(11) > 7, 4, -1):
        np.testing.assert_array_equal(images[rows], everything[rows])
    np.testing.assert_array_equal(images.take(slice(2, 8)).take(np.array([5, 0]))[:], everything[[7, 2]])
    batches = list(stored[0].batches(4))
    assert [len(batch) for batch, _ in batches] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in batches]), everything)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), stored[0].labels)


def test_images_on_disk_do_not_become_one_array_unnoticed(stored):
    for make in (np.asarray, tf.constant):
        with pytest.raises((TypeError, ValueError), match="read them by rows"):
            make(stored[0].images)


# Training


def fed(split, *, first, steps, places=None, augmentation="inception", seed=2):
    stream = TrainingStream(
        split.images, split.labels, augmentation=augmentation, batch_size=4, seed=seed, places=places
    )
    return [[part.numpy() for part in stream.batch(step)] for step in range(first, first + steps)]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_batch_is_a_function_of_seed_and_step(stored):
    whole = fed(stored[0], first=0, steps=7)
    assert_equal(fed(stored[0], first=3, steps=4), whole[3:])
    stream = TrainingStream(stored[0].images, stored[0].labels, augmentation="inception", batch_size=4, seed=2)
    jumps = [5, 0, 1, 6]
    assert_equal([[part.numpy() for part in stream.batch(step)] for step in jumps], [whole[step] for step in jumps])
    assert not np.array_equal(fed(stored[0], first=0, steps=1, seed=3)[0][0], whole[0][0])
    rows = batch_indices(seed=2, first_step=0, steps=7, batch_size=4, n=11)
    np.testing.assert_array_equal([labels for _, labels in whole], stored[0].labels[rows])


def test_each_image_of_a_batch_is_varied_as_its_place_says(stored):
    split, encoded = stored
    ((images, _),) = fed(split, first=5, steps=1)
    rows = batch_indices(seed=2, first_step=5, steps=1, batch_size=4, n=11)[0]
    for place, row in enumerate(rows):
        seed = image_seeds(2, tf.constant([5 * 4 + place], tf.int64))[0]
        np.testing.assert_allclose(
            images[place], decoding.training_image(encoded[row], seed, 16, 3, GREY_LEVELS), atol=1e-4
        )


def test_an_image_is_cut_in_another_way_every_time(stored):
    one = stored[0].images.take(slice(1))
    batches = fed(Split(one, stored[0].labels[:1]), first=0, steps=4)
    seen = [image.tobytes() for images, _ in batches for image in images]
    assert len(set(seen)) == 16


def test_workers_feed_their_parts_of_the_same_batch(stored):
    whole = fed(stored[0], first=2, steps=3)
    parts = [fed(stored[0], first=2, steps=3, places=range(start, start + 2)) for start in (0, 2)]
    joined = [[np.concatenate(pair) for pair in zip(*pieces, strict=True)] for pieces in zip(*parts, strict=True)]
    assert_equal(joined, whole)


def test_without_augmentation_training_sees_what_evaluation_sees(stored):
    rows = batch_indices(seed=2, first_step=0, steps=3, batch_size=4, n=11)
    everything = stored[0].images[:]
    for (images, _), row in zip(fed(stored[0], first=0, steps=3, augmentation=None), rows, strict=True):
        np.testing.assert_array_equal(images, everything[row])


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_an_image_that_cannot_be_decoded_is_one_line(stored, tmp_path, content):
    index = index_records([written(tmp_path / "bad", [record(content, 1)])], "image", "label")
    labels = index.pop("label").astype(np.int32)
    images = EncodedImages([tmp_path / "bad"], index, 16, 3, GREY_LEVELS)
    for read in (lambda: images[:], lambda: fed(Split(images, labels), first=0, steps=1)):
        with pytest.raises(ValueError, match="An image on disk cannot be decoded") as raised:
            read()
        assert "\n" not in str(raised.value)


def test_a_file_that_has_gone_is_one_line(tmp_path):
    path = written(tmp_path / "gone", [record(tf.io.encode_png(scenes()[0]).numpy(), 1)])
    index = index_records([path], "image", "label")
    images = EncodedImages([path], index, 16, 3, GREY_LEVELS)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be decoded.*No such file") as raised:
        images[:]
    assert "\n" not in str(raised.value)
