"""Stored results: the same settings continue them, other settings are refused by name."""

import dataclasses
import json

import pytest

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import resumable


@dataclasses.dataclass
class Chosen:
    points: int = 3
    splits: tuple[str, ...] = ("train", "test")
    rows_at_once: int = 10


def test_identity_is_what_json_reads_back():
    identity = resumable.identify(Chosen(), irrelevant=("rows_at_once",), data="digits", points=4)
    assert list(identity.items()) == [("points", 4), ("splits", ["train", "test"]), ("data", "digits")]


def test_nothing_stored_is_an_empty_result(tmp_path):
    assert resumable.claim(tmp_path / "a.json", {"points": 3}) == {}


def test_a_result_of_the_same_settings_is_read(tmp_path):
    path, identity = tmp_path / "a.json", resumable.identify(Chosen())
    # Settings that only the stored result has are ignored; those that it lacks count.
    stored = {"complete": False, "settings": {**identity, "more": 1}}
    path.write_text(json.dumps(stored))
    assert resumable.claim(path, identity) == stored
    assert resumable.claim(path, identity, overwrite=True) == {}
    with pytest.raises(RunError, match=r"^.*/a\.json is another result \(less is None there and 1 here\); choose "):
        resumable.claim(path, {**identity, "less": 1})


def test_the_first_setting_that_differs_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"settings": resumable.identify(Chosen())}))
    identity = resumable.identify(Chosen(points=5, splits=("test",)))
    with pytest.raises(RunError, match=r"a\.json is another result \(points is 3 there and 5 here\); do this\.$"):
        resumable.claim(path, identity, remedy="do this")
