"""Encoded images inside TFRecord files, located once and then read by index."""

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing

# A TFRecord is the length of its content, a checksum of the length, the content, and a checksum of the content.
_HEADER, _FOOTER = 12, 4
_READERS = 8

_WIRE_VARINT, _WIRE_BYTES = 0, 2
_WIRE_FIXED = {1: 8, 5: 4}

Index = dict[str, np.ndarray]
_Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Images on disk with the indexing of a float32 array: `images[rows]` decodes these rows.

    Reading an image gives the central square of 0.875 of the shorter side, resized, as published models are evaluated.

    Attributes:
      files: of the records.
      index: for every image `shard` (index in `files`), `offset` and `length` (bytes); arrays of one length.
      size: height and width that the images are resized to (pixels).
      channels: of an image (count).
      preprocessing: of the pixels.
    """

    files: Sequence[Path]
    index: Index
    size: int
    channels: int
    preprocessing: Preprocessing

    dtype = np.dtype(np.float32)
    ndim = 4

    @property
    def shape(self) -> tuple[int, ...]:
        """Count, height, width and channels."""
        return len(self), self.size, self.size, self.channels

    def __len__(self) -> int:
        return len(self.index["shard"])

    def __getitem__(self, rows: Any) -> npt.NDArray[np.float32]:
        chosen = np.arange(len(self))[rows]
        if not chosen.size:
            return np.zeros((0, *self.shape[1:]), np.float32)
        images = next(self.take(np.atleast_1d(chosen)).batches(chosen.size))
        return images if chosen.ndim else images[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("Images on disk are too many for one array: read them by rows, images[:1000].")

    def take(self, rows: Any) -> "EncodedImages":
        """Selects images, without reading them.

        Args:
          rows: a slice or indices of images.

        Returns:
          The selected images.
        """
        return replace(self, index={key: values[rows] for key, values in self.index.items()})

    def batches(self, size: int) -> Iterator[npt.NDArray[np.float32]]:
        """Iterates over the images once, in order, decoding ahead.

        Args:
          size: images per batch (count).

        Returns:
          Iterator over `[size, height, width, channels]`; the last one may be shorter.
        """
        # TensorFlow takes seconds to import, and sets in memory do not need it.
        from sparse_lib.experiment.data.feeding import pipeline  # noqa: PLC0415

        return pipeline.evaluation_batches(self.read, len(self), size, self.size, self.channels, self.preprocessing)

    def read(self, rows: npt.NDArray[np.integer]) -> list[bytes]:
        """Reads encoded images from the files.

        Args:
          rows: indices of images.

        Returns:
          The bytes of each image.

        Raises:
          OSError: if a file is missing.
        """
        found = []
        for shard, offset, length in zip(
            *(self.index[key][rows] for key in ("shard", "offset", "length")), strict=True
        ):
            # Closed again: ImageNet has more files than a process may keep open.
            record = os.open(self.files[shard], os.O_RDONLY)
            try:
                found.append(os.pread(record, length, offset))
            finally:
                os.close(record)
        return found


def index_records(files: Sequence[Path], image: str, label: str) -> Index:
    """Locates the images in TFRecord files of `tf.train.Example`.

    Only the headers of records and fields are read, not the images, and an image is later read from its offset. The
    protobuf library would read and copy every image, and does not report offsets.

    Args:
      files: the TFRecord files.
      image: name of the feature with the encoded image.
      label: name of the feature with the class.

    Returns:
      For every record, in order, `shard`, `offset` and `length` of its image, and its `label`.

    Raises:
      InputError: if a file is not a TFRecord file, or a record lacks one of the features.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda file: list(_records(file, image.encode(), label.encode())), files))
    numbers = np.repeat(np.arange(len(files), dtype=np.int32), [len(records) for records in found])
    rows = np.array([row for records in found for row in records], np.int64).reshape(-1, 3)
    return {"shard": numbers, "offset": rows[:, 0], "length": rows[:, 1], "label": rows[:, 2]}


def _records(file: Path, image: bytes, label: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields offset and length of the image, and the label, of each record."""
    if not file.stat().st_size:
        return
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begin = 0
        try:
            while begin < len(content):
                (length,) = struct.unpack_from("<Q", content, begin)
                record = (begin + _HEADER, begin + _HEADER + length)
                features = dict(_features(content, record))
                # Example.features.feature[name].bytes_list.value and .int64_list.value
                start, stop = _subfield(content, features[image], 1, 1)
                yield start, stop - start, _integer(content, _subfield(content, features[label], 3, 1))
                begin = record[1] + _FOOTER
        except (ValueError, KeyError, IndexError, struct.error) as error:
            raise InputError(f"{file} is damaged, or holds no labelled images: prepare the data set again.") from error


def _features(content: mmap.mmap, example: _Span) -> Iterator[tuple[bytes, _Span]]:
    """Yields name and span of each feature of a tf.train.Example."""
    for _, entry in _fields(content, _subfield(content, example, 1)):
        name, feature = _subfield(content, entry, 1), _subfield(content, entry, 2)
        yield content[slice(*name)], feature


def _subfield(content: mmap.mmap, message: _Span, *path: int) -> _Span:
    """Span of a nested field, by the field numbers of its path."""
    for number in path:
        message = dict(_fields(content, message))[number]
    return message


def _fields(content: mmap.mmap, message: _Span) -> Iterator[tuple[int, _Span]]:
    """Yields number and span of each field of a protocol buffer."""
    at, end = message
    while at < end:
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        start = at
        if wire == _WIRE_VARINT:
            _, at = _varint(content, at)
        elif wire == _WIRE_BYTES:
            length, start = _varint(content, at)
            at = start + length
        else:
            at += _WIRE_FIXED[wire]
        yield number, (start, at)
    if at != end or end > len(content):
        raise InputError("A field reaches over the end of its message.")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """Decodes a varint; returns the integer and the position after it."""
    value, shift = 0, 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _integer(content: mmap.mmap, place: _Span) -> int:
    """Decodes a signed integer, which starts its field whether packed or not."""
    value, _ = _varint(content, place[0])
    return value - (1 << 64) if value >> 63 else value
