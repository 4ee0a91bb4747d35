"""Image-classification sets of TensorFlow Datasets: decoded once and kept as arrays, or left encoded on disk."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.cache import Arrays, cache_directory, cached_arrays
from sparse_lib.experiment.data.dataset import SPLITS, Dataset, Split, dataset_from_arrays
from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing
from sparse_lib.experiment.data.holdout import hold_out
from sparse_lib.experiment.data.settings import EMBEDDED, DataSettings
from sparse_lib.experiment.data.sources.tfrecords import EncodedImages, index_records

_LOG = logging.getLogger(__name__)
_DECODE_BATCH = 256
_TEST_SEED = 1
_PLACE = ("shard", "offset", "length")
_NO_LABEL = -1


def load_tfds(settings: DataSettings, preprocessing: Preprocessing) -> Dataset:
    """Loads a prepared TFDS set; nothing is downloaded unless `settings.download`.

    The test images are the set's `test`, where it has labels, else its `validation`, else held out of `train`.
    The validation images are a set's own `validation` where that is not the test already and `validation_size` is None;
    else they are held out of `train`.

    Args:
      settings: without `auto`. The name is as `tfds.builder` takes it: `mnist`, `cifar10`, `name/config:1.2.3`.
        `image_size` is needed where images differ in size: the central square is resized, antialiased bilinear.
      preprocessing: of pixels that are bytes.

    Returns:
      The data set.

    Raises:
      InputError: if the set is unknown, not prepared, no image classification, of images that differ in size without
        an `image_size`, or too large for memory.
    """
    name = settings.name
    builder = _prepared_builder(name, settings.data_dir, settings.download)
    keys = _supervised_keys(name, builder)
    image, label = (builder.info.features[key] for key in keys)
    shape = _image_shape(name, image, settings.image_size)
    cache = cache_directory(settings.cache_dir)
    if settings.on_disk:
        path = cache / f"{_file_stem(builder)}-index.npz"
        index = cached_arrays(path, lambda: _index(name, builder, keys))
        pairs = _divide(name, index, settings.validation_size)
        images = EncodedImages(_files(builder), {key: index[key] for key in _PLACE}, shape[0], shape[2], preprocessing)
        splits = {key: Split(images.take(rows), labels.astype(np.int32)) for key, (rows, labels) in pairs.items()}
        return Dataset(name, **splits, num_classes=label.num_classes, augmentation=settings.augmentation)
    _check_memory(name, builder, image, shape)
    path = cache / f"{_file_stem(builder)}-{'x'.join(map(str, shape))}.npz"
    arrays = cached_arrays(path, lambda: _decode(name, builder, keys, shape))
    return dataset_from_arrays(
        name,
        _divide(name, arrays, settings.validation_size),
        label.num_classes,
        preprocessing=preprocessing,
        augmentation=settings.augmentation,
    )


def _prepared_builder(name: str, data_dir: str | None, download: bool) -> Any:
    # TFDS takes a second to import, and imports TensorFlow: other sets do without it.
    import tensorflow_datasets as tfds  # noqa: PLC0415

    directory = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        with _mute_warnings():
            builder = tfds.builder(name, data_dir=directory)
            if builder.is_prepared():
                return builder
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(
            f"There is no data set '{name}': use an embedded one ({', '.join(EMBEDDED)}), a name "
            "from the TFDS catalog (mnist, fashion_mnist, cifar10, ...), or the path of an .npz."
        ) from error
    except Exception as error:
        raise InputError(
            f"TFDS cannot open the data set '{name}': {_first_line(error)} Correct the name or "
            "use the embedded 'mnist_5k'."
        ) from error
    if not download:
        where = "" if directory is None else f", data_dir='{directory}'"
        raise InputError(
            f"The data set '{name}' is not prepared in {builder.data_path}: run "
            f"`python -c \"import tensorflow_datasets as tfds; tfds.load('{name}'{where})\"`, "
            "or set data.download=True, or use the embedded 'mnist_5k'."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(
            f"Cannot download the data set '{name}': {_first_line(error)} Try again with a "
            "network, or use the embedded 'mnist_5k'."
        ) from error
    return builder


@contextmanager
def _mute_warnings() -> Iterator[None]:
    # TFDS warns of a set that is not prepared, as the error does in one line.
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if line.endswith(".") else f"{line}."


def _supervised_keys(name: str, builder: Any) -> tuple[str, str]:
    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    if len(keys) == 2 and all(key in features for key in keys):
        image, label = (features[key] for key in keys)
        if getattr(label, "num_classes", None) and len(image.shape) == 3:
            return keys
    raise InputError(
        f"The TFDS set '{name}' is no image classification (its features are "
        f"{sorted(features)}): choose one that pairs an image with a class label."
    )


def _image_shape(name: str, feature: Any, image_size: int | None) -> tuple[int, int, int]:
    height, width, channels = feature.shape
    if image_size is not None:
        height = width = image_size
    if height is None or width is None:
        raise InputError(
            f"The images of '{name}' differ in size: set data.image_size to the height and width "
            "that they are brought to."
        )
    return height, width, channels


def _splits(name: str, builder: Any) -> list[tuple[str, Any]]:
    if "train" not in builder.info.splits:
        raise InputError(
            f"The TFDS set '{name}' has no split 'train', only {sorted(builder.info.splits)}: choose another."
        )
    return [(key, builder.info.splits[key]) for key in SPLITS if key in builder.info.splits]


def _check_memory(name: str, builder: Any, feature: Any, shape: tuple[int, int, int]) -> None:
    images = sum(split.num_examples for _, split in _splits(name, builder))
    value = 1 if feature.np_dtype == np.uint8 else np.dtype(np.float32).itemsize
    needed = images * int(np.prod(shape)) * value
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise InputError(
            f"The data set '{name}' takes {needed / 2**30:.0f} GiB in memory and this machine has "
            f"{present / 2**30:.0f}: set data.on_disk=True, or choose a smaller data.image_size."
        )


def _file_stem(builder: Any) -> str:
    # A set that is prepared again has other files, so that its arrays are decoded again. Times are whole seconds,
    # within which two small sets can be prepared: the directory distinguishes these.
    listing = sorted((entry.name, entry.stat().length, entry.stat().mtime) for entry in builder.data_path.iterdir())
    digest = hashlib.sha256(repr((os.fspath(builder.data_path), listing)).encode()).hexdigest()[:12]
    return f"{builder.info.full_name.replace('/', '-')}-{digest}"


def _files(builder: Any) -> list[Path]:
    """Files of all splits, in order."""
    return [Path(file) for key in SPLITS if key in builder.info.splits for file in builder.info.splits[key].filepaths]


def _index(name: str, builder: Any, keys: tuple[str, str]) -> Arrays:
    """Locates the images of all splits, split after split; for each split the positions in that list, and labels."""
    kind = builder.info.file_format
    if kind is None or kind.value != "tfrecord":
        raise InputError(
            f"The data set '{name}' is stored as {kind and kind.value}, and images are left on disk in tfrecord files "
            "alone: prepare it with file_format='tfrecord', or set data.on_disk=False."
        )
    _LOG.info("Indexing '%s' once; later runs read the index.", name)
    index = index_records(_files(builder), *keys)
    arrays = {key: index[key] for key in _PLACE}
    end = 0
    for split_name, split in _splits(name, builder):
        begin, end = end, end + split.num_examples
        arrays[f"x_{split_name}"], arrays[f"y_{split_name}"] = np.arange(begin, end), index["label"][begin:end]
    if len(index["label"]) != end:
        raise InputError(
            f"The data set '{name}' has {len(index['label'])} of {end} images: delete {builder.data_path} and prepare "
            "it again."
        )
    return arrays


def _decode(name: str, builder: Any, keys: tuple[str, str], shape: tuple[int, int, int]) -> Arrays:
    import tensorflow as tf  # noqa: PLC0415  (as above)

    _LOG.info("Decoding '%s' once; later runs read the arrays.", name)
    arrays = {}
    for split_name, split in _splits(name, builder):
        images = np.empty((split.num_examples, *shape), builder.info.features[keys[0]].np_dtype)
        labels = np.empty(split.num_examples, np.int64)
        end = 0
        try:
            for image_batch, label_batch in _batches(builder, split_name, keys, shape):
                begin, end = end, end + len(label_batch)
                images[begin:end], labels[begin:end] = image_batch, label_batch
        except tf.errors.OpError as error:
            raise InputError(_damage_message(name, builder, split_name)) from error
        if end != split.num_examples:
            raise InputError(_damage_message(name, builder, split_name))
        arrays[f"x_{split_name}"], arrays[f"y_{split_name}"] = images, labels
    return arrays


def _damage_message(name: str, builder: Any, split_name: str) -> str:
    return f"The split '{split_name}' of data set '{name}' is damaged: delete {builder.data_path} and prepare it again."


def _batches(
    builder: Any, split_name: str, keys: tuple[str, str], shape: tuple[int, int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds  # noqa: PLC0415  (as above)

    image_key, label_key = keys
    feature = builder.info.features[image_key]

    def pair(example: dict[str, Any]) -> tuple[Any, Any]:
        image = example[image_key]
        if feature.shape != shape:
            image = resize_to_square(image, shape[0], feature)
        return image, example[label_key]

    stream = builder.as_dataset(
        split=split_name,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(dict.fromkeys(keys, True)),
    )
    return stream.map(pair).batch(_DECODE_BATCH).prefetch(1).as_numpy_iterator()


def resize_to_square(image: Any, size: int, feature: Any) -> Any:
    """Resizes the central square of an image.

    Args:
      image: `[height, width, channels]`.
      size: height and width of the result (pixels).
      feature: of TFDS, whose type the result has; integers are rounded.

    Returns:
      `[size, size, channels]`.
    """
    import tensorflow as tf  # noqa: PLC0415  (as above)

    side = tf.reduce_min(tf.shape(image)[:2])
    square = tf.image.resize_with_crop_or_pad(image, side, side)
    resized = tf.image.resize(square, (size, size), antialias=True)
    if np.issubdtype(feature.np_dtype, np.integer):
        resized = tf.round(resized)
    return tf.cast(resized, feature.tf_dtype)


def _divide(name: str, arrays: Arrays, validation_size: int | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pairs = {key: (arrays[f"x_{key}"], arrays[f"y_{key}"]) for key in SPLITS if f"x_{key}" in arrays}
    if "test" in pairs and (pairs["test"][1] == _NO_LABEL).all():
        # ImageNet's test labels are secret: everybody tests on its validation images.
        del pairs["test"]
    train, validation = pairs["train"], pairs.get("validation")
    test = pairs.get("test") or validation
    if test is None:
        train, test = hold_out(*train, None, name=name, seed=_TEST_SEED)
    if "test" not in pairs or validation is None or validation_size is not None:
        train, validation = hold_out(*train, validation_size, name=name)
    return {"train": train, "validation": validation, "test": test}
