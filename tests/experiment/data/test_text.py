"""A text as examples, against the text itself."""

import numpy as np
import pytest

from sparse_lib.experiment.data.sources import text
from sparse_lib.experiment.data.sources.text import CONTEXT, load_text
from tests.experiment.data.loading import load


@pytest.fixture
def written(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    (tmp_path / "some.txt").write_bytes(content)
    return tmp_path, content


def test_every_example_is_a_stretch_of_its_part_and_what_follows(written):
    folder, content = written
    dataset = load_text("some.txt", data_dir=folder)
    assert dataset.input_shape == (CONTEXT, 1, 1) and dataset.num_classes == 256
    parts = {"train": content[:4000], "validation": content[4000:4500], "test": content[4500:]}
    for name, part in parts.items():
        split = getattr(dataset, name)
        # There are fewer places than examples may be: each is one.
        assert len(split) == len(part) - CONTEXT
        for start in (0, 1, len(split) // 2, len(split) - 1):
            assert bytes(split.images[start].ravel().astype(np.uint8)) == part[start : start + CONTEXT]
            assert split.labels[start] == part[start + CONTEXT]


def test_long_texts_are_cut_at_even_distances(written, monkeypatch):
    folder, content = written
    monkeypatch.setattr(text, "LARGEST", 100)
    dataset = load_text(str(folder / "some.txt"), validation_size=7)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [100, 7, 10]
    starts = [content.index(bytes(image.ravel().astype(np.uint8))) for image in dataset.train.images]
    assert set(np.diff(starts)) == {38, 39} and starts[0] == 0
    assert not len(load_text(str(folder / "some.txt"), validation_size=0).validation)


def test_missing_and_short_texts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        load_text("none.txt", data_dir=tmp_path)
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ValueError, match="has 9 bytes: give at least 2560"):
        load_text("short.txt", data_dir=tmp_path)


def test_the_catalog_knows_texts(written):
    folder, _ = written
    dataset = load(name="some.txt", data_dir=folder, validation_size=5)
    assert dataset.num_classes == 256 and len(dataset.validation) == 5
    for wrong in ({"augmentation": "crop_flip"}, {"preprocessing": "unit"}, {"image_size": 8}, {"on_disk": True}):
        with pytest.raises(ValueError, match=r"some\.txt'.*leave"):
            load(name="some.txt", data_dir=folder, **wrong)
