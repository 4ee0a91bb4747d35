"""What a reader explores: the data in the page, the charts, and that a browser shows them."""

import html.parser
import json
import pathlib
import shutil
import subprocess

import pandas as pd
import pytest

from analysis.records.runs import load_runs
from analysis.report import charts, explore, overview


@pytest.fixture
def runs(write_run, tmp_path):
    write_run("rigl_plus", 0, gradient_norm=[3.14159265, 2.0, float("nan")], changes=[0.5], accuracy=0.9)
    write_run("scratch", 1, gradient_norm=[1.0], accuracy=0.8, bindings=["optimizer.learning_rate = 0.1"])
    write_run("dense", 0, finished=False, bindings=["optimizer.learning_rate = 0.2"])
    return load_runs(tmp_path / "runs")


def column(found: dict, name: str) -> list:
    place = [column["name"] for column in found["columns"]].index(name)
    return [row[place] for row in found["rows"]]


def test_the_table_has_settings_that_differ_and_final_results(runs):
    found = explore.gather(runs)
    assert column(found, "run") == ["0/dense", "0/rigl_plus", "1/scratch"]
    assert column(found, "optimizer.learning_rate") == [0.2, None, 0.1]
    assert column(found, "final test_accuracy") == [None, 0.9, 0.8]
    kinds = {column["name"]: column["kind"] for column in found["columns"]}
    assert (kinds["final test_accuracy"], kinds["seed"], kinds["label"]) == ("fraction", "number", "text")
    # The same in all runs, or told by a column of its own.
    assert not {"data.name", "setting", "training.seed", "network.mask_init_path"} & set(kinds)


def test_series_are_those_of_the_records_and_what_is_missing_is_null(runs):
    found = explore.gather(runs)
    metrics, updates, _ = found["groups"]
    names = ["step", *(measure["name"] for measure in metrics["measures"])]
    rigl = dict(zip(names, metrics["series"][1], strict=True))
    assert rigl["step"] == [0, 5, 10] and rigl["gradient_norm"] == [3.142, 2, None]
    assert updates["series"][0] is None and updates["series"][1][0] == [5]
    assert "gradient_norm_change at mask updates" in [m["name"] for m in updates["measures"]]
    titles = {m["name"]: (m["title"], m["kind"]) for group in found["groups"] for m in group["measures"]}
    # The norm of a gradient has no name of a unit.
    assert titles["gradient_norm"] == ("gradient norm", "number")
    assert titles["train_loss"] == ("training loss (nats)", "number")
    assert titles["sparsity/dense1/kernel"] == ("sparsity dense1/kernel", "fraction")
    json.dumps(found, allow_nan=False)


def test_long_series_are_thinned_with_their_ends_and_many_runs_fit(write_run, tmp_path):
    write_run("scratch", 0, gradient_norm=[float(n) for n in range(1000)])
    found = explore.gather(load_runs(tmp_path / "runs"))
    steps = found["groups"][0]["series"][0][0]
    assert (steps[0], steps[-1], len(steps)) == (0, 5 * 999, 250)
    assert set(pd.Series(steps).diff().dropna()) <= {20.0, 25.0}
    found = explore.gather(load_runs(tmp_path / "runs"), budget=300)
    assert len(found["groups"]) == 1 and "layers are left out" in found["note"]
    assert sum(len(series or []) for series in found["groups"][0]["series"][0]) <= 300


def test_the_specifications_can_be_drawn_and_name_no_address_of_data():
    specifications = charts.specifications()
    assert set(specifications) == {"lines", "points", "means"}
    for specification in specifications.values():
        assert specification["data"] == {"values": []}
        assert "url" not in json.dumps(specification).replace("$schema", "")


def test_no_script_ends_the_element_that_holds_it():
    assert all("</script" not in text and "<!--" not in text for text in charts.scripts())


def tags_of(text: str) -> set[str]:
    found: set[str] = set()
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, _: found.add(tag)
    parser.feed(text)
    return found


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs a browser")
def test_a_browser_draws_the_chart_and_the_table(write_run, tmp_path):
    hostile = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
    write_run("rigl_plus", 0, name="0/" + hostile.replace("/", "\u2215"), changes=[1.0])
    for seed in (1, 2, 3):
        write_run("scratch", seed)
    page = overview.write([tmp_path / "runs"], tmp_path / "report")
    words = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1280,9000",
        "--virtual-time-budget=15000",
    ]
    words += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--dump-dom",
        f"{page.as_uri()}#explore",
    ]
    done = subprocess.run([CHROMIUM, *words], capture_output=True, text=True, check=False, timeout=120)
    drawn = done.stdout
    assert "Uncaught" not in done.stderr and "Refused" not in done.stderr
    assert "<title>Sparse training" in drawn and "img" not in tags_of(drawn)
    panel = drawn[drawn.index('id="explore-panel"') :]
    assert panel.count("<tr>") >= 4 and 'class="marks"' in panel and "4 of 4 runs drawn" in panel
    assert 'class="interactive"' in drawn
    assert pathlib.Path(page).stat().st_size < 6e6
