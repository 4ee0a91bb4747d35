"""Every example runs by itself, copied into an empty folder beside the installed wheel."""

import re
import shutil

import pytest

from tests import installed
from tests.installed import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What the end of its output must say.
ENDS = {
    "convnet_fit": r"test accuracy 0\.9",
    "deploy": r"stored sparse +test accuracy 0\.9",
    "custom_loop": r"active weights have moved",
    "several_devices": r"the same on all of them: True",
    "own_updater": r"SET +validation accuracy 0\.",
    "sparse_dqn": r"rigl +4\d\d +\d+\.\d",
    "ticket_transfer": r"shuffled ticket trained on 5 to 9: 0\.",
    "transformer": r"sorted: \[",
}
# Shorter forms of those that take minutes.
ARGUMENTS = {"sparse_dqn": ["--seeds=1", "--steps=300"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    return installed.install(installed.build_wheel(folder), folder / "env")


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example, site, tmp_path):
    shutil.copy(example, tmp_path)
    last = installed.run(site, [example.name, *ARGUMENTS.get(example.stem, [])], tmp_path).splitlines()[-1]
    assert re.search(ENDS[example.stem], last), last
