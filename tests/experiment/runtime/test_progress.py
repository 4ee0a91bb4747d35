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


def test_a_terminal_has_a_bar(log, monkeypatch):
    terminal = Terminal(live=True)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    bar = Progress("run", 1000, done=200)
    bar.update(1000, "test accuracy 0.9")
    bar.close()
    first, *_, last = terminal.getvalue().split("\r")
    assert "run:  20%|" in terminal.getvalue() and "| 200/1,000 steps, " in terminal.getvalue()
    assert last.startswith("run: 100%|") and "1,000/1,000 steps, " in last
    assert last.endswith(" left, test accuracy 0.9\n")
    assert first == "" and log == [] and terminal.getvalue().count("\n") == 1


def test_a_job_without_units_shows_its_share(monkeypatch):
    terminal = Terminal(live=True)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    Progress("study", 8.0, done=2.0, unit=None).update(8.0)
    assert "study:  25%|" in terminal.getvalue() and "8.0" not in terminal.getvalue()


def test_lines_about_parts_stand_above_the_bar(monkeypatch):
    terminal = Terminal(live=True)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    bar = Progress("study", 10)
    bar.say("study: prune is done")
    bar.close()
    assert "\rstudy: prune is done\n" in terminal.getvalue().replace(" " * 20, "").replace("\r ", "\r")


def test_a_job_that_stops_early_ends_its_line(monkeypatch):
    terminal = Terminal(live=True)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    bar = Progress("run", 1000)
    bar.update(10)
    bar.close()
    assert "| 10/1,000 steps, " in terminal.getvalue() and terminal.getvalue().endswith("\n")


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
    bar.say("run: a part is done")
    assert log[-1] == "run: a part is done"
    assert terminal.getvalue() == ""
