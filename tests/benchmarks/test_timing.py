"""Contestants take turns in processes of their own; one that dies is named, and the others go on."""

import os

from benchmarks import timing


def build(name):
    if name == "unbuilt":
        raise ImportError("no such package")
    return {"works": lambda: 3, "raises": lambda: 1 // 0, "ends": lambda: os._exit(7)}[name]


def test_contestants_that_die_are_named_and_left_out(capfd):
    names = ["unbuilt", "works", "raises", "ends"]
    with timing.start_processes(build, names, "processor") as contestants:
        measured = timing.measure_rates(contestants, rounds=2)
    assert set(measured) == {"works"}
    assert len(measured["works"]) == 2
    said = capfd.readouterr().err
    assert "left out: unbuilt: ImportError: no such package" in said
    assert "left out: raises: ZeroDivisionError" in said
    assert "left out: ends ended with status 7" in said


def test_rates_are_units_per_second():
    turns = {"slow": lambda: timing.Turn(2, 4.0), "fast": lambda: timing.Turn(2, 1.0)}
    measured = timing.measure_rates(turns, rounds=3)
    assert measured == {"slow": [0.5] * 3, "fast": [2.0] * 3}
    assert timing.median_ratio(measured, "fast", "slow") == 4
    assert timing.median_seconds(measured["slow"]) == 2
