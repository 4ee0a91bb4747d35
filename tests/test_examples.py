"""Every example runs by itself, copied into an empty folder."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What the end of its output must say.
ENDS = {
    "convnet_fit": r"test accuracy 0\.9",
    "deploy": r"stored sparse +test accuracy 0\.9",
    "custom_loop": r"active weights have moved",
    "several_devices": r"the same on all of them: True",
    "own_updater": r"SET +validation accuracy 0\.",
    "ticket_transfer": r"shuffled ticket trained on 5 to 9: 0\.",
    "transformer": r"sorted: \[",
}


def run(example: pathlib.Path, folder: pathlib.Path) -> str:
    shutil.copy(example, folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, example.name]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example, tmp_path):
    last = run(example, tmp_path).splitlines()[-1]
    assert re.search(ENDS[example.stem], last), last
