"""Progress: the time left on a terminal, plain lines elsewhere."""

import io

import pytest

from sparse_lib.experiment.runtime import progress
from sparse_lib.experiment.runtime.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3599.9, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


class Terminal(io.StringIO):
    def __init__(self, live):
        super().__init__()
        self.live = live

    def isatty(self):
        return self.live


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(progress.logging, "info", lambda form, *args: lines.append(form % args))
    return lines


def test_a_terminal_has_one_live_line(clock, log, monkeypatch):
    terminal = Terminal(live=True)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    bar = Progress("run", 1000, done=200)
    bar.update(200)
    clock[0] += 10
    bar.update(400, "test accuracy 0.9")
    clock[0] += 30
    bar.update(1000)
    bar.close()
    assert terminal.getvalue().split("\r\x1b[K") == [
        "",
        "run: step 200 of 1,000",
        "run: step 400 of 1,000, 20 steps/s, 30 s left, test accuracy 0.9",
        "run: step 1,000 of 1,000, 20 steps/s\n",
    ]
    assert log == []


def test_a_job_that_stops_early_ends_its_line(clock, monkeypatch):
    terminal = Terminal(live=True)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    bar = Progress("run", 1000)
    bar.update(10)
    bar.close()
    assert terminal.getvalue().endswith("10 of 1,000\n")


def test_elsewhere_there_is_a_line_now_and_then(clock, log, monkeypatch):
    terminal = Terminal(live=False)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    bar = Progress("run", 10)
    for done in range(1, 11):
        clock[0] += 4
        bar.update(done)
    bar.close()
    assert [line.split(",")[0] for line in log] == [f"run: step {n} of 10" for n in (3, 6, 9, 10)]
    assert "0.25 steps/s" in log[0] and "28 s left" in log[0]
    assert terminal.getvalue() == ""
