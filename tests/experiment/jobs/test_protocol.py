"""Stages of studies: their commands, what they wait for, and their progress."""

import json
import pathlib

import pytest

from sparse_lib.experiment.jobs import protocol
from sparse_lib.experiment.runtime.errors import RunError

OUT = pathlib.Path("runs/study")


def make(out=OUT, **arguments):
    shared = ["training.total_steps=100"]
    return protocol.make_training(
        out, "a/lottery", "configs/lottery.gin", shared=shared, seed=3, steps=100, **arguments
    )


def test_a_training_run_takes_masks_and_start_from_the_run_that_it_waits_for():
    stage = make(bindings=["training.log_freq=5"], masks_of="a/prune")
    assert stage.after == ("a/prune",)
    assert stage.command == (
        "train.py",
        "--logdir=runs/study/a/lottery",
        "--seed=3",
        "--gin_config=configs/lottery.gin",
        "--gin_bindings=training.total_steps=100",
        "--gin_bindings=PRUNED_RUN='runs/study/a/prune'",
        "--gin_bindings=PRUNED_START='runs/study/a/prune/ckpt-0'",
        "--gin_bindings=training.log_freq=5",
    )
    alone = make()
    assert alone.after == () and not any("PRUNED" in word for word in alone.command)


def test_progress_and_end_of_a_training_run_are_read_from_its_files(tmp_path):
    stage = make(out=tmp_path, step_work=0.5, start_work=8.0)
    assert stage.work == 58.0 and stage.work_done() == 0 and not stage.is_finished()
    directory = tmp_path / "a" / "lottery"
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in (0, 20, 40)))
    assert stage.work_done() == 20.0 and not stage.is_finished()
    (directory / "result.json").write_text("{}")
    assert stage.is_finished()


def test_a_checkout_is_required(tmp_path):
    protocol.require_checkout("A study")
    with pytest.raises(RunError, match=r"^A study needs a source checkout, and .* is not one: clone the repository"):
        protocol.require_checkout("A study", tmp_path / "train.py")
