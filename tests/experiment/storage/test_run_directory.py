"""The directory of a run belongs to one process and one configuration."""

import fcntl
import os

import pytest

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files, run_directory

CONFIG = "# Parameters:\ntraining.seed = 1\ntraining.total_steps = 10\n"


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / files.OPERATIVE_CONFIG).write_text(CONFIG)
    (path / files.METRICS).write_text("{}\n")
    (path / files.TENSORBOARD).mkdir()
    (path / files.TENSORBOARD / "events").touch()
    for name in ("ckpt-0.index", "ckpt-0.data-00000-of-00001", "ckpt--5.index"):
        (path / name).touch()
    (path / "lottery").mkdir()
    (path / "lottery" / files.OPERATIVE_CONFIG).write_text(CONFIG)
    return path


def contents(directory):
    """Returns the bytes of each file, by its path; None stands for a folder."""
    found = {path: None if path.is_dir() else path.read_bytes() for path in sorted(directory.rglob("*"))}
    return {path.relative_to(directory).as_posix(): content for path, content in found.items()}


def test_locked_makes_the_directory(tmp_path):
    path = tmp_path / "a" / "b"
    with run_directory.lock(path):
        assert list(path.iterdir()) == []


def test_a_second_process_is_kept_out(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(RunError, match="Another process works in"), run_directory.lock(tmp_path):
        raise AssertionError
    os.close(handle)
    with run_directory.lock(tmp_path):
        pass
    with run_directory.lock(tmp_path):
        pass


def test_an_unwritable_directory_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"--logdir=.*file/run cannot be written \(Not a directory\); choose another\.$"):
        run_directory.lock(tmp_path / "file" / "run").__enter__()


def test_the_same_configuration_goes_on(run):
    before = contents(run)
    run_directory.check_claim(run, CONFIG, overwrite=False)
    assert contents(run) == before
    assert before[files.OPERATIVE_CONFIG] == CONFIG.encode()


def test_an_empty_directory_or_one_of_runs_is_free(run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    before = contents(tmp_path)
    for directory in (empty, run.parent):
        run_directory.check_claim(directory, CONFIG, overwrite=False)
    assert contents(tmp_path) == before


def test_another_configuration_is_refused_by_what_differs(run):
    with pytest.raises(RunError) as caught:
        run_directory.check_claim(run, CONFIG.replace("= 10", "= 20"), overwrite=False)
    assert "(training.total_steps is 10 there and 20 here)" in str(caught.value)
    several = CONFIG.replace("= 10", "= 20") + "mlp.hidden_sizes = \\\n    (3,)\ntraining.execution = 'dense'\n"
    with pytest.raises(RunError) as caught:
        run_directory.check_claim(run, several, overwrite=False)
    both = "(training.total_steps is 10 there and 20 here; mlp.hidden_sizes is not set there and (3,) here)"
    assert both in str(caught.value)
    many = CONFIG + "".join(f"masks.a{number} = 1\n" for number in range(10))
    with pytest.raises(RunError, match=r"masks\.a7 is not set there and 1 here; and 2 others\)"):
        run_directory.check_claim(run, many, overwrite=False)
    run_directory.check_claim(run, CONFIG.replace("= 10", "= 20"), overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_somebody_else_are_refused(overwrite, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"is not a run of this suite \(it holds thesis\.tex and no operative_config"):
        run_directory.check_claim(tmp_path, CONFIG, overwrite=overwrite)


def test_clear_deletes_the_run_and_nothing_else(run):
    (run / "notes.txt").touch()
    run_directory.clear(run)
    assert sorted(path.name for path in run.iterdir()) == ["lottery", "notes.txt"]
    assert (run / "lottery" / files.OPERATIVE_CONFIG).exists()


def test_clear_leaves_what_is_no_run(tmp_path):
    (tmp_path / "ckpt-0.index").touch()
    run_directory.clear(tmp_path)
    assert (tmp_path / "ckpt-0.index").exists()


def test_a_lock_is_seen_and_not_disturbed(tmp_path):
    assert not run_directory.is_locked(tmp_path / "none") and not run_directory.is_locked(tmp_path)
    with run_directory.lock(tmp_path):
        assert run_directory.is_locked(tmp_path)
    assert not run_directory.is_locked(tmp_path)
