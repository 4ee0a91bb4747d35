"""The report on finished, single, unfinished and missing runs."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from analysis import propagation
from analysis.figures import style
from analysis.report import __main__, overview
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
    assert "http" not in text.replace("http://www.w3.org", "")
    assert len(outline.ids) == len(set(outline.ids))
    assert "nan" not in outline.text.lower().replace("nats", "").split()
    return outline


def test_a_study(write_run, tmp_path):
    for seed in (0, 1):
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
    write_run("scratch", 2, finished=False)
    write_run("scratch", 3, accuracy=0.25, outcome="at_chance", left_plateau_at=None)
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
        "Scratch: 1 of 3 at chance (3/scratch).",
        "RigL+: 1 of 3 diverged (3/rigl_plus).",
    ):
        assert words in outline.text
    written = json.loads((out / "report.json").read_text())
    assert set(written["cases"][0]["claims"].values()) <= {"supported", "not supported", "undecided", "not enough data"}
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
    assert "Not enough data for" in outline.text
    assert "Not shown" in outline.text


def test_an_empty_directory(tmp_path):
    (tmp_path / "runs").mkdir()
    overview.write([tmp_path / "runs"], tmp_path / "report")
    outline = outline_of(tmp_path / "report")
    assert "There is no run below" in outline.text
    assert "python train.py" in outline.text
    assert not (tmp_path / "report" / "figures").exists()


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
    (tmp_path / "empty").mkdir()
    overview.write([tmp_path / "empty"], out)
    assert not stale.exists()
    assert (out / "data" / "mine.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out=x"], "--runs"),
        (["--runs=/nowhere/at/all", "--out=x"], "--runs=/nowhere/at/all is not a directory"),
        (["--runs=."], "--out"),
    ],
)
def test_a_wrong_command_line_ends_with_status_two(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
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
