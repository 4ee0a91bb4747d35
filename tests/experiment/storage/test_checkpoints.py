"""Checkpoints: what is read is what was written, and nothing is ever half there."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import checkpoints
from sparse_lib.experiment.storage.checkpoints import Checkpoints, Reader, find, list_steps


def state(offset: float = 0.0) -> dict[str, dict[str, tf.Variable]]:
    return {
        "model": {
            "dense/kernel": tf.Variable(np.arange(600.0).reshape(30, 20) + offset, dtype=tf.float32),
            "dense/bias": tf.Variable([1.5 + offset]),
        },
        "masks": {"dense/kernel": tf.Variable(np.arange(600).reshape(30, 20) % 3 == 0)},
        "optimizer": {"0.iteration": tf.Variable(7, dtype=tf.int64), "1.m.of": tf.Variable(2.0, dtype=tf.float64)},
        "tally": {"loss": tf.Variable(0.5, dtype=tf.float64)},
    }


def saver(directory: pathlib.Path, values: dict | None = None, keep: int | None = None) -> Checkpoints:
    return Checkpoints(directory, state() if values is None else values, keep=keep, network="tiny")


def numbers(values: dict) -> dict:
    return {group: {n: v.numpy() for n, v in variables.items()} for group, variables in values.items()}


def assert_equal(one: dict, other: dict) -> None:
    for group, variables in one.items():
        for name, value in variables.items():
            np.testing.assert_array_equal(value, other[group][name])


def test_restores_every_type_bit_by_bit(tmp_path):
    saver(tmp_path, state(0.1)).save(5)
    other = state()
    assert saver(tmp_path, other).restore_latest() == 5
    assert_equal(numbers(state(0.1)), numbers(other))


def test_nothing_to_restore(tmp_path):
    assert saver(tmp_path).restore_latest() is None


def test_reader_knows_names_and_values(tmp_path):
    saver(tmp_path).save(0)
    reader = Reader(tmp_path)
    assert reader.names("model") == ["dense.bias", "dense.kernel"]
    assert reader.names("optimizer") == ["0.iteration", "1.m.of"]
    np.testing.assert_array_equal(reader.read("masks", "dense/kernel"), state()["masks"]["dense/kernel"].numpy())
    assert reader.read("tally", "loss") == 0.5


@pytest.mark.parametrize(
    "form",
    ["ckpt-500", "ckpt-500.index", "ckpt-500.data-00000-of-00001", "cp-500.ckpt", "cp-0500.ckpt", ""],
)
def test_find_understands(form, tmp_path):
    made = saver(tmp_path)
    for step in (0, 70, 500):
        made.save(step)
    made.save(-600)
    assert find(tmp_path / form) == str(tmp_path / "ckpt-500")


def test_find_takes_a_step_beside_a_mask_update(tmp_path):
    saver(tmp_path).save(-99)
    assert find(tmp_path / "ckpt--99") == str(tmp_path / "ckpt--99")
    assert list_steps(tmp_path) == []


def test_find_takes_the_best_of_a_run_that_has_kept_it(tmp_path):
    made = saver(tmp_path, {**state(), "best": {"step": tf.Variable(5, dtype=tf.int64)}}, keep=1)
    for step in range(4, 9):
        made.save(step, spared=5)
    assert list_steps(tmp_path) == [5, 8]
    assert find(tmp_path / "ckpt-best") == str(tmp_path / "ckpt-5") == Reader(tmp_path / "ckpt-best").prefix
    (tmp_path / "other").mkdir()
    saver(tmp_path / "other").save(3)
    with pytest.raises(
        RunError, match=r"other has no ckpt-best: train with training\.keep_best=True, or name a step\."
    ):
        find(tmp_path / "other" / "ckpt-best")


def test_find_names_what_is_there(tmp_path):
    made = saver(tmp_path)
    made.save(0)
    made.save(20)
    with pytest.raises(RunError, match=r"no checkpoint .*ckpt-30; .* has ckpt-0, ckpt-20\."):
        find(tmp_path / "ckpt-30")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty; .*empty has none\."):
        find(tmp_path / "empty")
    with pytest.raises(RunError, match=r"nowhere has none\."):
        find(tmp_path / "nowhere" / "ckpt-1")


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [0, 5]), (2, [0, 4, 5]), (9, [0, 1, 2, 3, 4, 5]), (None, [0, 1, 2, 3, 4, 5])]
)
def test_keeps_the_first_and_the_last(keep, left, tmp_path):
    made = saver(tmp_path, keep=keep)
    made.save(-3)
    for step in range(6):
        made.save(step)
    assert list_steps(tmp_path) == left
    files = {path.name for path in tmp_path.iterdir()}
    wanted = {f"ckpt-{step}{end}" for step in [-3, *left] for end in (".index", ".data-00000-of-00001")}
    assert files == wanted


@pytest.mark.parametrize("call", [1, 2])
def test_a_save_that_fails_leaves_what_was_there(call, tmp_path, monkeypatch):
    saver(tmp_path).save(1)
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", failing)
    with pytest.raises(RunError, match=r"ckpt-2 cannot be written: No space left on device\.$"):
        saver(tmp_path, state(5.0)).save(2)
    assert list_steps(tmp_path) == [1]
    restored = state(9.0)
    assert saver(tmp_path, restored).restore_latest() == 1
    assert_equal(numbers(state()), numbers(restored))
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt-1.index", "ckpt-1.data-00000-of-00001"}


def test_a_missing_directory_is_told(tmp_path):
    with pytest.raises(RunError, match=r"ckpt-2 cannot be written: No such file or directory\.$"):
        saver(tmp_path / "gone").save(2)


def test_restoring_removes_what_a_killed_process_left(tmp_path):
    saver(tmp_path).save(1)
    (tmp_path / ".tmp-ckpt-99").mkdir()
    (tmp_path / ".tmp-ckpt-99" / "ckpt.index").touch()
    (tmp_path / ".tmp-99-metrics.jsonl").touch()
    (tmp_path / "ckpt-2.data-00000-of-00001").touch()
    assert saver(tmp_path).restore_latest() == 1
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt-1.index", "ckpt-1.data-00000-of-00001"}


def damage_data(file: pathlib.Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def damage_one_bit(file: pathlib.Path) -> None:
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        (".data-00000-of-00001", damage_data),
        (".data-00000-of-00001", damage_one_bit),
        (".data-00000-of-00001", pathlib.Path.unlink),
        (".index", damage_data),
        (".index", lambda file: file.write_bytes(b"")),
        (".index", lambda file: file.write_bytes(b"not a checkpoint" * 20)),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_nothing_assigned(ending, damage, tmp_path):
    saver(tmp_path, state(1.0)).save(3)
    damage(tmp_path / f"ckpt-3{ending}")
    values = state(2.0)
    with pytest.raises(RunError, match=r"ckpt-3 is damaged .*: delete .*ckpt-3\.\* to go on"):
        saver(tmp_path, values).restore_latest()
    assert_equal(numbers(values), numbers(state(2.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dense/kernel": tf.zeros((30, 21)), "dense/bias": tf.zeros(1)},
            r"dense.kernel has shape \(30, 20\), not \(30, 21\)",
        ),
        ({"dense/kernel": tf.zeros((30, 20))}, "dense.bias is not in the network"),
        (
            {"conv/kernel": tf.zeros(3), "dense/kernel": tf.zeros((30, 20)), "dense/bias": tf.zeros(1)},
            "conv.kernel is missing",
        ),
    ],
)
def test_another_network_is_refused_and_nothing_assigned(change, message, tmp_path):
    saver(tmp_path).save(3)
    values = {**state(2.0), "model": {name: tf.Variable(value) for name, value in change.items()}}
    before = numbers(values)
    with pytest.raises(RunError, match=rf"ckpt-3 does not fit tiny: model .*{message}"):
        saver(tmp_path, values).restore_latest()
    assert_equal(before, numbers(values))


def test_a_missing_group_is_told(tmp_path):
    saver(tmp_path, {"model": state()["model"]}).save(3)
    with pytest.raises(RunError, match=r"ckpt-3 holds no masks; it comes from a run without them\."):
        Reader(tmp_path).read_group("masks", {"dense/kernel": (30, 20)}, "tiny")
    with pytest.raises(RunError, match=r"ckpt-3 holds no model/other"):
        Reader(tmp_path).read("model", "other")
