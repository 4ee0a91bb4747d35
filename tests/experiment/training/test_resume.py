"""A killed run that is started again ends where the uninterrupted one ends, bit by bit."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from sparse_lib.experiment.storage.checkpoints import Reader, list_steps

ROOT = pathlib.Path(__file__).parents[3]
LENGTH = [
    "training.total_steps=60",
    "training.log_freq=7",
    "training.save_freq=10",
    "training.batch_size=32",
    "mlp.hidden_sizes=(16, 8)",
    "masks.sparsity=0.8",
]
PRUNING = ["pruning.mode='prune'", "pruning.begin_step=5", "pruning.end_step=50", "pruning.frequency=5"]
DYNAMIC = ["mask_updater.update_freq=6"]
MODES = {
    "prune": [*LENGTH[:-1], *PRUNING],
    "rigl": [*LENGTH, *DYNAMIC, "mask_updater.update_alg='rigl'"],
    "set": [*LENGTH, *DYNAMIC, "mask_updater.update_alg='set'", "mask_updater.growth_init='random'"],
    "snfs": [*LENGTH, *DYNAMIC, "mask_updater.update_alg='snfs'"],
    "rigl_averaged": [*LENGTH, *DYNAMIC, "mask_updater.update_alg='rigl'", "mask_updater.growth_gradient=4"],
    "mest": [*LENGTH, *DYNAMIC, "mask_updater.update_alg='mest'", "mask_updater.mest_soft_bound=True"],
    "chts": [*LENGTH, *DYNAMIC, "mask_updater.update_alg='chts'"],
    "acdc": [
        *LENGTH[:-1],
        *DYNAMIC,
        "pruning.mode='constant'",
        "mask_updater.update_alg='acdc'",
        "mask_updater.last_update_step=54",
    ],
    "granet": [*LENGTH[:-1], *PRUNING, *DYNAMIC, "mask_updater.update_alg='granet'"],
    # Steps of recycling are neither those of saves nor of logs.
    "recycling": [
        *LENGTH,
        *DYNAMIC,
        "mask_updater.update_alg='rigl'",
        "training.recycle_freq=9",
        "training.dormant_threshold=0.5",
    ],
    "topkast": [*LENGTH, "mask_updater.update_alg='topkast'"],
    "dnw": [*LENGTH, "mask_updater.update_alg='dnw'"],
    "snip": [*LENGTH[:-1], "training.oneshot_prune_fraction=0.8", "oneshot.method='snip'"],
    "dense_adam": [*LENGTH[:-1], "optimizer.name='adam'"],
    # Rates by densities that a resumed run has to find again.
    "granet_supar_sign_in": [
        *LENGTH[:-1],
        *PRUNING,
        *DYNAMIC,
        "mask_updater.update_alg='granet'",
        "optimizer.name='sign_in'",
        "optimizer.sign_in_reset=7",
        "optimizer.learning_rate=0.01",
        "optimizer.supar_base_density=0.5",
    ],
}
DRIVER = """
import sys
from absl import flags
import train
{patch}
train.define_mode()
sys.exit(train.cli.run(train.main))
"""
# Ends the process as a power cut would, at the n-th call of a function, before or after it does its work.
KILL_AT = """
import os, signal
{imports}
original, calls = {owner}.{name}, [0]
def deadly(*args, **kwargs):
    calls[0] += 1
    if calls[0] == {call} and {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    value = original(*args, **kwargs)
    if calls[0] == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return value
{owner}.{name} = deadly
"""
LOOP = {"imports": "from sparse_lib.experiment.training.loop import Loop", "owner": "Loop"}
MOMENTS = {
    # Call 1 is the configuration, each checkpoint takes two: data, then index.
    "inside_a_save": {"imports": "", "owner": "os", "name": "replace", "call": 7, "before": True},
    "between_update_and_save": {**LOOP, "name": "_update_masks", "call": 4, "before": False},
    "between_log_and_save": {**LOOP, "name": "_log", "call": 5, "before": False},
    "after_the_first_checkpoint": {**LOOP, "name": "_initial_weights", "call": 1, "before": True},
}


def command(directory: pathlib.Path, bindings: list[str], patch: str = "") -> list[str]:
    flags = [f"--gin_bindings={b}" for b in ["network.network_name='mlp'", *bindings]]
    return [sys.executable, "-c", DRIVER.format(patch=patch), f"--logdir={directory}", "--seed=3", *flags]


def start(directory: pathlib.Path, bindings: list[str], patch: str = "") -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    nothing = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(directory, bindings, patch), env=environment, cwd=ROOT, **nothing)


def run(directory: pathlib.Path, bindings: list[str], patch: str = "") -> int:
    return start(directory, bindings, patch).wait()


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    first, second = Reader(one), Reader(other)
    assert first.prefix.rsplit("/", 1)[1] == second.prefix.rsplit("/", 1)[1]
    for group in ("model", "masks", "explored", "logged", "optimizer"):
        assert first.names(group) == second.names(group)
        for name in first.names(group):
            np.testing.assert_array_equal(first.read(group, name), second.read(group, name))
    for file in ("metrics.jsonl", "mask_updates.jsonl", "operative_config.gin"):
        if (one / file).exists() or (other / file).exists():
            assert (one / file).read_text() == (other / file).read_text(), file
    results = [json.loads((d / "result.json").read_text()) for d in (one, other)]
    for result in results:
        del result["wall_seconds"], result["steps_per_second"]
    assert results[0] == results[1]
    for name in ("logits", "labels"):
        np.testing.assert_array_equal(np.load(one / "predictions.npz")[name], np.load(other / "predictions.npz")[name])


CASES = [*(("rigl", moment) for moment in MOMENTS), *((mode, "inside_a_save") for mode in MODES if mode != "rigl")]


def test_a_killed_run_goes_on_bit_by_bit(tmp_path: pathlib.Path) -> None:
    whole, broken, bindings = tmp_path / "whole", tmp_path / "broken", [*MODES["rigl"], "training.jit_compile=False"]
    assert run(broken, bindings, KILL_AT.format(**MOMENTS["inside_a_save"])) == -signal.SIGKILL
    both = [start(directory, bindings) for directory in (whole, broken)]
    assert [process.wait() for process in both] == [0, 0]
    assert_same_run(whole, broken)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "moment"), CASES)
def test_killed_run_equals_uninterrupted_one(mode: str, moment: str, tmp_path: pathlib.Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole, MODES[mode]) == 0
    assert run(broken, MODES[mode], KILL_AT.format(**MOMENTS[moment])) == -signal.SIGKILL
    assert run(broken, MODES[mode]) == 0
    assert_same_run(whole, broken)


@pytest.mark.slow
def test_run_stops_at_a_signal_and_goes_on(tmp_path: pathlib.Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole, MODES["rigl"]) == 0
    stop = KILL_AT.format(**LOOP, name="_log", call=3, before=True).replace("SIGKILL", "SIGTERM")
    assert run(broken, MODES["rigl"], stop) == 128 + signal.SIGTERM
    assert run(broken, MODES["rigl"]) == 0
    kept = {f"ckpt-{step}" for step in list_steps(broken)}
    assert {f"ckpt-{step}" for step in list_steps(whole)} <= kept
    assert_same_run(whole, broken)


@pytest.mark.slow
def test_log_frequency_does_not_change_the_run(tmp_path: pathlib.Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert run(one, MODES["rigl"]) == 0
    assert run(other, [b.replace("log_freq=7", "log_freq=31") for b in MODES["rigl"]]) == 0
    first, second = Reader(one), Reader(other)
    for group in ("model", "masks", "explored", "optimizer"):
        for name in first.names(group):
            np.testing.assert_array_equal(first.read(group, name), second.read(group, name))
