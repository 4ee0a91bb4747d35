"""--extend: a longer run is the one that was that long from the start, or is refused."""

import json

import gin
import pytest

from sparse_lib.experiment.command_line import commands, extension
from sparse_lib.experiment.command_line.options import Options
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from tests.experiment import tiny

TINY = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(8,)",
    "training.total_steps=4",
    "training.batch_size=16",
    "training.log_freq=2",
    "training.jit_compile=False",
    "masks.sparsity=0.5",
    "mask_updater.update_alg='rigl'",
    "mask_updater.schedule_alg='constant'",
    "mask_updater.update_freq=3",
]


def train(directory, *bindings, extend=None, overwrite=False):
    gin.clear_config()
    try:
        commands.train(Options(gin_bindings=bindings), directory, overwrite=overwrite, extend=extend)
    finally:
        gin.clear_config()
    return directory


def test_an_extended_run_is_the_one_that_was_that_long_from_the_start(tmp_path):
    constant = [*TINY, "optimizer.schedule='constant'"]
    short = train(tmp_path / "short", *constant)
    # The run itself says what it is.
    train(short, extend=8)
    long = train(tmp_path / "long", *constant, "training.total_steps=8")
    for name in (files.METRICS, files.MASK_UPDATES, files.OPERATIVE_CONFIG):
        assert (short / name).read_text() == (long / name).read_text()
    one, other = (Reader(directory / "ckpt-8") for directory in (short, long))
    for group in ("model", "masks", "optimizer"):
        assert one.names(group) == other.names(group)
        assert all((one.read(group, name) == other.read(group, name)).all() for name in one.names(group))
    result = (short / files.RESULT).read_text()
    assert json.loads(result)["steps"] == 8
    # The same command tells the result again; a shorter run is none.
    train(short, extend=8)
    assert (short / files.RESULT).read_text() == result
    with pytest.raises(SettingError, match="--extend=6 must be more than the 8 steps"):
        train(short, extend=6)
    with pytest.raises(RunError, match=r"training\.batch_size is 16 there and 32 here"):
        train(short, "training.batch_size=32", extend=9)
    assert (short / files.RESULT).read_text() == result


def test_a_run_whose_schedule_ends_with_it_is_not_extended(tmp_path):
    directory = train(tmp_path / "run", *TINY)
    before = (directory / files.RESULT).read_text()
    with pytest.raises(RunError, match=r"the learning rate \(optimizer\.schedule='cosine'\) depends on its length"):
        train(directory, extend=8)
    with pytest.raises(SettingError, match="--overwrite deletes it"):
        train(directory, extend=8, overwrite=True)
    assert (directory / files.RESULT).read_text() == before


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 1),
        ({"optimizer": {"schedule": "constant"}}, 0),
        ({"optimizer": {"schedule": "piecewise", "boundaries": (9,), "factors": (0.1,)}}, 0),
        ({"optimizer": {"schedule": "sgdr", "sgdr_steps": 5}}, 0),
        ({"mask_updater": {"schedule_alg": "lr"}}, 2),
        ({"optimizer": {"schedule": "constant"}, "mask_updater": {"schedule_alg": "cosine"}}, 1),
        ({"optimizer": {"schedule": "constant"}, "mask_updater": {"schedule_alg": "power", "last_update_step": 8}}, 0),
    ],
)
def test_schedules_that_depend_on_the_length_are_found(settings, count):
    sparse = {"mask_updater": {"update_alg": "rigl", **settings["mask_updater"]}} if "mask_updater" in settings else {}
    optimizer = {"optimizer": {**tiny.OPTIMIZER, **settings.get("optimizer", {})}}
    experiment = tiny.experiment("mlp", masks={"sparsity": 0.5}, **optimizer, **sparse)
    assert len(extension.find_dependent_schedules(experiment, 12)) == count


def test_a_field_that_depends_on_the_length_is_found():
    method = {"update_alg": "chts", "schedule_alg": "constant", "update_freq": 5}
    constant = {**tiny.OPTIMIZER, "schedule": "constant"}
    experiment = tiny.experiment("mlp", masks={"sparsity": 0.5}, mask_updater=method, optimizer=constant)
    assert extension.find_dependent_schedules(experiment, 12) == ["annealing_end of CHTs"]
