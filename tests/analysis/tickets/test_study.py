"""A small study of tickets from end to end: killed and resumed, in one process or in several, to the same bits."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from analysis.tickets import __main__ as command
from sparse_lib.experiment.jobs.protocol import ROOT
from sparse_lib.experiment.storage.checkpoints import Reader

SIZE = ["--levels=2", "--seeds=1", "--steps=60", "--rewind=20", "--jobs=1", "--gin_bindings=mlp.hidden_sizes=(20,12)"]
RUNS = ("level_00", "level_01", "level_02", "level_02_shuffle")
BRANCHES = ["--branches=shuffle", "--branch_levels=2"]


def values(directory):
    reader = Reader(directory)
    names = [(group, name) for group in ("model", "masks", "optimizer") for name in reader.names(group)]
    assert {group for group, _ in names} == {"model", "masks", "optimizer"}
    return [reader.read(group, name) for group, name in names]


@pytest.mark.slow
def test_killed_and_resumed_in_one_process_or_in_several(tmp_path):
    words = [*SIZE, *BRANCHES]
    whole = [f"--out={tmp_path / 'whole'}", "--runs_in_process=1", *words]
    assert command.main([*whole, "--landscape=barriers,instability"]) == 0
    rows = pd.read_csv(tmp_path / "whole" / "landscape.csv").groupby("kind")["level"].unique()
    assert rows["barriers"].tolist() == [1, 2] and rows["instability"].tolist() == [2]
    assert (tmp_path / "whole" / "figures" / "barriers.svg").exists()
    killed = [f"--out={tmp_path / 'killed'}", "--runs_in_process=5", *words]
    process = subprocess.Popen([sys.executable, "-m", "analysis.tickets", *killed], cwd=ROOT, start_new_session=True)
    while not (tmp_path / "killed" / "seed_1" / "level_01" / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    # The job and the process of the runs, of which nothing is saved.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "seed_1" / "level_02" / "result.json").exists()
    assert command.main(killed) == 0
    for run in RUNS:
        whole, resumed = (values(tmp_path / name / "seed_1" / run) for name in ("whole", "killed"))
        for one, other in zip(whole, resumed, strict=True):
            np.testing.assert_array_equal(one, other)
