"""The report on finished, single, unfinished and missing runs."""

import html
import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from analysis import propagation
from analysis.claims import paper
from analysis.figures import style
from analysis.records import landscapes, spectra
from analysis.records.runs import load_runs
from analysis.report import __main__, case, overview
from sparse_lib.experiment.storage.checkpoints import Checkpoints
from tests.analysis.outline import Outline


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measures signal propagation at two sparsities, and writes every figure once."""
    signal, save_figure = propagation.signal, style.save
    monkeypatch.setattr(propagation, "signal", lambda network: signal(network, sparsities=(0.0, 0.9), repeats=1))
    monkeypatch.setattr(style, "save", lambda figure, path: save_figure(figure, path, formats=("svg",)))


def save(directory: pathlib.Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 3)) < 0.5
    for step in (0, 100):
        weights = rng.normal(size=(4, 3)).astype(np.float32) * mask
        state = {"model": {"mlp/dense1/kernel": tf.Variable(weights)}, "masks": {"dense1/kernel": tf.Variable(mask)}}
        Checkpoints(directory, state, keep=None, network="mlp").save(step)


def outline_of(out: pathlib.Path) -> Outline:
    text = (out / "index.html").read_text(encoding="utf8")
    outline = Outline(text)
    inside = [link for link in outline.links if link.startswith("#")]
    beside = [link for link in outline.links if not link.startswith("#")]
    assert {link[1:] for link in inside} <= set(outline.ids)
    assert all((out / link).is_file() for link in beside)
    # Opens offline: nothing is fetched.
    assert outline.sources == []
    assert "://" not in re.sub("(?s)<script.*?</script>", "", text).replace("http://www.w3.org", "")
    assert "default-src 'none'" in html.unescape(text) and len(text) < 6e6
    assert len(outline.ids) == len(set(outline.ids))
    assert "nan" not in outline.text.lower().replace("nats", "").split()
    return outline


def test_a_study(write_run, tmp_path):
    for seed in (0, 1, 2):
        for place, mode in enumerate(
            ("dense", "small_dense", "prune", "lottery", "scratch", "scratch_plus", "rigl_plus")
        ):
            moving = mode == "rigl_plus"
            directory = write_run(
                mode,
                seed,
                gradient_norm=[0.1 + place, 1.0 + seed / 10, 1.0],
                changes=[1.0, 0.5 + seed / 10] if moving else (),
                accuracy=0.9 + place / 100 + seed * (place % 3) / 1000,
                wrong=[seed, place],
            )
            save(directory, seed)
    write_run("scratch", 3, accuracy=0.25, outcome="at_chance", left_plateau_at=None)
    write_run("scratch", 4, finished=False)
    write_run("rigl_plus", 3, outcome="diverged", left_plateau_at=None)
    out = tmp_path / "report"
    assert __main__.main([f"--runs={tmp_path / 'runs'}", f"--out={out}"]) == 0
    outline = outline_of(out)
    for words in (
        "MLP on digits, 90% sparse",
        "supported",
        "Lottery tickets",
        "t-interval",
        "Some runs are not finished",
        "Scratch: 1 of 4 at chance (3/scratch).",
        "RigL+: 1 of 4 diverged (3/rigl_plus).",
    ):
        assert words in outline.text
    # Results and one figure come first, then the claims.
    page = (out / "index.html").read_text(encoding="utf8")
    order = ['id="mlp-on-digits-accuracy"', "<caption>Finished runs", 'id="claims-of-the-paper"', 'id="explore"']
    assert [page.index(words) for words in order] == sorted(page.index(words) for words in order)
    assert page.index("<figure") < page.index(order[0]) + 10
    for heading in ("Written", "Command", "Versions", "Data", "Seeds", "python -m analysis.report --runs="):
        assert heading in outline.text
    assert "0, 1, 2, 3, 4" in outline.text
    written = json.loads((out / "report.json").read_text())
    assert set(written["cases"][0]["claims"].values()) <= {"supported", "not supported", "undecided", "not enough data"}
    assert written["origin"]["Seeds"] == "0, 1, 2, 3, 4"
    figures = {path.name for path in (out / "figures" / "mlp-on-digits-90").iterdir()}
    names = (
        "gradient_norm",
        "mask_updates",
        "loss",
        "plateau",
        "disagreement",
        "embedding",
        "layer_sparsity",
        "mask_evolution",
    )
    assert figures == {f"{name}.svg" for name in names}
    data = {path.name for path in (out / "data" / "mlp-on-digits-90").iterdir()}
    assert {"claims.csv", "similarity.csv", "distances.csv", "metrics.csv", "results.csv", "mask_overlap.csv"} <= data
    assert not list(out.rglob(".tmp-*"))


def test_one_run(write_run, tmp_path):
    save(write_run("rigl_plus", 0, changes=[1.0], wrong=[1]), 0)
    overview.write([tmp_path / "runs"], tmp_path / "report")
    outline = outline_of(tmp_path / "report")
    assert "1 run:" in outline.text
    assert "No data for" in outline.text
    assert "Not shown" in outline.text
    # One seed is a value without an interval.
    assert "lacks a second seed" in outline.text


def verdicts_of(top: pathlib.Path) -> dict[str, paper.Verdict]:
    runs = load_runs(top)
    (found,) = runs.cases()
    measured = case.measure_case(*found, landscapes.load_paths([top], runs), spectra.load(runs))
    return {verdict.claim.name: verdict for verdict in measured.verdicts}


def test_two_seeds_are_values_without_an_interval(write_run, tmp_path):
    for seed in (0, 1):
        write_run("lottery", seed, accuracy=0.9 + seed / 100)
        write_run("scratch", seed, accuracy=0.8)
    verdict = verdicts_of(tmp_path / "runs")["ticket_above_scratch"]
    assert verdict.effect == "+10.50 points"
    assert (verdict.status, verdict.measured.missing) == ("not enough data", "a third seed")


def test_no_interval_of_points_goes_beyond_100(write_run, tmp_path):
    for seed, accuracy in enumerate((0.1, 0.1, 0.9)):
        write_run("lottery", seed, accuracy=accuracy)
        write_run("scratch", seed, accuracy=0.9 - accuracy)
    verdict = verdicts_of(tmp_path / "runs")["ticket_above_scratch"]
    # Student's interval is -0.17 +- 2.3.
    assert verdict.effect == "-16.67 points [-100, 100]"
    assert verdict.status == "undecided"


def test_what_a_report_is_made_of_is_data(write_run, tmp_path):
    """Names of directories and settings come from others: they are shown, and never run."""
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)> $x_$ '\"&"
    name = hostile.replace("/", "\u2215")
    for run in (name, "plain"):
        write_run("rigl_plus", 0, name=run, changes=[1.0], bindings=[f"mask_updater.note = {run!r}"])
    described = {
        "method": "rigl.plus",
        "label": "RigL",
        "setting": f"../../{hostile}",
        "network": hostile,
        "data": hostile,
    }
    described |= {"target_sparsity": 0.9, "mask_source": "", "seed": 0, "total_steps": 100}
    (tmp_path / "runs" / name / "run.json").write_text(json.dumps(described))
    outside = {path for path in tmp_path.rglob("*") if path.is_file()}
    overview.write([tmp_path / "runs"], tmp_path / "report")
    outline = outline_of(tmp_path / "report")
    assert outline.attributes.get("img") is None
    assert list(outline.scripts) == ["explore-data", "chart-specifications", "script 2", "script 3"]
    assert hostile in outline.text
    explored = json.loads(outline.scripts["explore-data"])
    assert name in [cell for row in explored["rows"] for cell in row]
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - outside
    assert all(path.is_relative_to(tmp_path / "report") for path in written)


@pytest.mark.parametrize("words", ["empty", "nowhere"])
def test_a_directory_without_runs_is_status_one_and_one_line(words, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert __main__.main([f"--runs={tmp_path / words}", f"--out={tmp_path / 'report'}"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and printed.out == ""
    assert words in printed.err and not (tmp_path / "report").exists()


def test_runs_that_have_just_begun(write_run, tmp_path):
    write_run("lottery", 0, gradient_norm=[1.0], finished=False)
    begun = write_run("rigl_plus", 0, finished=False)
    (begun / "metrics.jsonl").unlink()
    overview.write([tmp_path / "runs"], tmp_path / "report")
    text = outline_of(tmp_path / "report").text
    assert "No run is finished" in text
    assert "No run of this case is finished" in text


def test_what_an_earlier_report_has_left_goes_and_what_others_have_stays(write_run, tmp_path):
    out = tmp_path / "report"
    write_run("rigl_plus", 0, changes=[1.0])
    overview.write([tmp_path / "runs"], out)
    stale = next(out.rglob("mask_updates.svg"))
    (out / "data" / "mine.csv").write_text("x")
    (tmp_path / "runs" / "0" / "rigl_plus" / "mask_updates.jsonl").unlink()
    overview.write([tmp_path / "runs"], out)
    assert not stale.exists()
    assert (out / "data" / "mine.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out=x"], "--runs"),
        (["--runs=."], "--out"),
    ],
)
def test_a_wrong_command_line_ends_with_status_two(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line(write_run, tmp_path, capsys):
    write_run("rigl_plus", 0)
    (tmp_path / "file").write_text("")
    assert __main__.main([f"--runs={tmp_path}", f"--out={tmp_path / 'file' / 'report'}"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1


def test_missing_and_damaged_checkpoints_are_told_and_left_out(write_run, tmp_path):
    save(write_run("prune", 0), 0)
    save(write_run("lottery", 0), 0)
    write_run("scratch", 0)
    damaged = write_run("lottery", 1, pruned="0/prune")
    save(damaged, 0)
    for path in damaged.glob("ckpt-100.data*"):
        path.write_bytes(b"")
    overview.write([tmp_path / "runs"], tmp_path / "report")
    text = outline_of(tmp_path / "report").text
    assert "1/lottery/ckpt-100 is damaged" in text
    assert "0/scratch has none" in text
    distances = (tmp_path / "report" / "data" / "mlp-on-digits-90" / "distances.csv").read_text()
    assert [line.split(",")[0] for line in distances.splitlines()] == ["run", "0/lottery"]
