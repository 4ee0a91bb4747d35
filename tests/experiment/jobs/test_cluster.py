"""Stages on a cluster: submitit's executors stand in for Slurm, and small commands for training runs."""

import json
import os
import pathlib
import signal
import time

import pytest

from sparse_lib.experiment.jobs import cluster, places, stages
from sparse_lib.experiment.jobs.places import Place, Task
from sparse_lib.experiment.runtime.errors import RunError, SettingError

submitit = pytest.importorskip("submitit")

WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('done'); print('written')"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cluster.ClusterExecutor, "poll_seconds", 0.05)


def stage(folder: pathlib.Path, name: str, program: str = WRITE, after: tuple[str, ...] = ()) -> stages.Stage:
    target = folder / name
    return stages.Stage(name, ("-c", program, str(target)), target.exists, after)


def job(folder: pathlib.Path, which: list[stages.Stage], where: str = "debug") -> stages.Job:
    return stages.Job("test", which, folder / "logs", place=Place(where=where, minutes=1))


def test_stages_run_in_their_order_and_once(tmp_path):
    copy = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text((p.parent / 'first').read_text())"
    both = [stage(tmp_path, "first"), stage(tmp_path, "second", copy, ("first",))]
    job(tmp_path, both).run()
    assert (tmp_path / "second").read_text() == "done"
    log = (tmp_path / "logs" / "first.log").read_text().splitlines()
    assert log[0].startswith("$ python -c ") and log[1:] == ["written"]
    (tmp_path / "first").write_text("kept")
    job(tmp_path, both).run()
    assert (tmp_path / "first").read_text() == "kept"
    assert not list((tmp_path / "logs").glob("*.job"))


def test_a_failure_is_one_line(tmp_path):
    program = "import sys; print('error: it is broken', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RunError, match=r"^The stage 'bad' failed, see .*bad\.log: it is broken$"):
        job(tmp_path, [stage(tmp_path, "bad", program)]).run()


def test_processes_of_their_own(tmp_path):
    job(tmp_path, [stage(tmp_path, "a"), stage(tmp_path, "b")], "local").run()
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()


# Saves on SIGTERM, and goes on from what is saved, as train.py does.
RESUMABLE = """
import pathlib, signal, sys, time
target = pathlib.Path(sys.argv[1])
saved = target.with_suffix(".saved")
def save(*_):
    saved.write_text("half")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
target.with_suffix(".started").write_text("")
while not saved.exists():
    time.sleep(0.02)
target.write_text(saved.read_text() + " and the rest")
"""


def test_a_preempted_run_saves_is_queued_again_and_goes_on(tmp_path):
    executor = cluster.ClusterExecutor(tmp_path / "slurm", Place(where="local", minutes=1), "test", 1)
    log = tmp_path / "run.log"
    log.touch()
    (process,) = executor.start([Task(("-c", RESUMABLE, str(tmp_path / "run")), log)])
    wait_for((tmp_path / "run.started").exists)
    # What Slurm sends before it preempts a job. Submitit's process passes it to its task.
    children = pathlib.Path(f"/proc/{process.job.job_id}/task/{process.job.job_id}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGUSR2)
    wait_for(lambda: process.poll() is not None)
    assert process.poll() == 0, process.job.stderr()
    assert (tmp_path / "run").read_text() == "half and the rest"


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Stand-ins of Slurm's programs: sbatch notes the script, squeue lists what the file `queue` lists.
SBATCH = '#!/bin/sh\ncp "$1" "$SLURM_TEST/script"\necho "$(cat "$SLURM_TEST/answer")"\n'
SQUEUE = '#!/bin/sh\ncat "$SLURM_TEST/queue"\n'


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> pathlib.Path:
    """Puts stand-ins of Slurm's programs before the others, and returns their folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "srun": "#!/bin/sh\n", "scancel": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "answer").write_text("Submitted batch job 12")
    (folder / "queue").write_text("12_0\n12_1\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_TEST", str(folder))
    return folder


def make_tasks(folder: pathlib.Path) -> list[Task]:
    tasks = [Task(("-c", "", name), folder / f"{name}.log") for name in ("a", "b")]
    for task in tasks:
        task.log.touch()
    return tasks


def test_what_slurm_is_asked_for(tmp_path, slurm):
    place = Place(where="slurm", partition="gpu", gpus=2, cpus=4, minutes=90, options={"account": "abc"})
    cluster.ClusterExecutor(tmp_path / "slurm", place, "sweep", 10).start(make_tasks(tmp_path))
    asked = (slurm / "script").read_text()
    for option in (
        *("job-name=sweep", "partition=gpu", "gpus-per-node=2", "cpus-per-task=4", "time=90", "account=abc"),
        *("requeue", "array=0-1%2", "signal=USR2@120", "open-mode=append"),
    ):
        assert f"#SBATCH --{option}\n" in asked, asked
    assert json.loads((tmp_path / "b.log.job").read_text()) == {"job": "12_1"}


def test_without_gpus_none_are_asked_for(tmp_path, slurm):
    cluster.ClusterExecutor(tmp_path / "slurm", Place(where="slurm"), "sweep", 10).start(make_tasks(tmp_path))
    assert "gpus-per" not in (slurm / "script").read_text()


def test_a_later_call_watches_what_is_in_the_queue(tmp_path, slurm):
    tasks = make_tasks(tmp_path)
    cluster.ClusterExecutor(tmp_path / "slurm", Place(where="slurm"), "sweep", 10).start(tasks)
    (slurm / "queue").write_text("12_1\n")
    (slurm / "answer").write_text("Submitted batch job 13")
    again = cluster.ClusterExecutor(tmp_path / "slurm", Place(where="slurm"), "sweep", 10).start(tasks)
    assert [process.job.job_id for process in again] == ["13", "12_1"]


def test_a_job_that_left_the_queue_without_a_result_has_failed(tmp_path, slurm, monkeypatch):
    executor = cluster.ClusterExecutor(tmp_path / "slurm", Place(where="slurm"), "sweep", 10)
    tasks = make_tasks(tmp_path)
    process, other = executor.start(tasks)
    assert process.poll() is None and other.poll() is None
    (slurm / "queue").write_text("12_1\n")
    monkeypatch.setattr(cluster, "QUEUE_SECONDS", 0.0)
    assert other.poll() is None
    assert process.poll() == 1
    assert "error: Slurm job 12_0: " in tasks[0].log.read_text()
    # What cannot answer says nothing.
    (slurm / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert other.poll() is None


def test_a_refusal_is_one_line(tmp_path, slurm):
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nowhere' >&2\nexit 1\n")
    executor = cluster.ClusterExecutor(tmp_path / "slurm", Place(where="slurm", partition="nowhere"), "sweep", 10)
    with pytest.raises(RunError, match=r"^The cluster refused the jobs: invalid partition specified: nowhere$"):
        executor.start(make_tasks(tmp_path))


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="^There is no Slurm here"):
        cluster.ClusterExecutor(tmp_path / "slurm", Place(where="slurm"), "sweep", 10)


GIVEN = {flag.name: flag.default for flag in places.FLAGS}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"where": "moon"}, "--where=moon is none of local, slurm."),
        ({"gpus": 1}, "--gpus is for --where=slurm; leave it out, or add that."),
        ({"where": "slurm", "time": "0"}, "--time=0 is no time limit; write H:MM:SS, D-H:MM:SS or minutes."),
        ({"where": "slurm", "time": "1:30"}, "--time=1:30 is no time limit; write H:MM:SS, D-H:MM:SS or minutes."),
        ({"where": "slurm", "cpus": -1}, "--cpus=-1 must be at least 0."),
        ({"where": "slurm", "slurm": ["--qos"]}, "--slurm=--qos is not NAME=VALUE with an option of sbatch, such as"),
    ],
)
def test_flags_that_cannot_be(values, message):
    with pytest.raises(SettingError) as raised:
        places.make_place(GIVEN | values)
    assert str(raised.value).startswith(message)


def test_flags_that_can_be():
    assert places.make_place(GIVEN) == places.LOCAL
    given = {"where": "slurm", "time": "2-1:00:00", "slurm": ["account=abc", "constraint=a100"]}
    place = places.make_place(GIVEN | given)
    assert (place.minutes, place.options) == (49 * 60, {"account": "abc", "constraint": "a100"})
