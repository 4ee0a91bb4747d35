"""The search: what it finds, how it goes on, and which trials it gives up."""

import csv
import io

import pytest

from analysis.sweep import __main__, grid, search, values
from sparse_lib.experiment.jobs import places, stages
from sparse_lib.experiment.runtime.errors import RunError
from tests.analysis.sweep import training

optuna = pytest.importorskip("optuna")

TUNED = "mask_updater.init_drop_fraction"


@pytest.fixture
def script(tmp_path, monkeypatch) -> str:
    monkeypatch.setattr(stages, "POLL_SECONDS", 0.02)
    path = training.write_script(tmp_path)
    monkeypatch.setattr(search, "Planner", lambda sweep: grid.Planner(sweep, path))
    return path


def make(out, trials=8, seeds=(0,), prunes=False, ranges=(f"{TUNED}=0.05:0.6",)) -> search.Search:
    sweep = grid.Sweep(
        out, grid.make_settings([("configs/rigl.gin",)], []), tuple(seeds), ("training.total_steps=100",)
    )
    return search.Search(sweep, tuple(map(values.parse_range, ranges)), trials, 0, prunes)


def trials(out) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "search.csv").read_text())))


def test_a_search_comes_near_the_best_value_and_says_so(tmp_path, script, capsys):
    out = tmp_path / "out"
    search.run(make(out, trials=10), 1, places.LOCAL)
    found = trials(out)
    assert len(found) == len(training.read_history(out)) == 10
    accuracies = [float(row["validation_accuracy_mean"]) for row in found]
    assert accuracies == sorted(accuracies, reverse=True)
    best = float(found[0][TUNED])
    # The accuracy of the stand-in has its peak at 0.3; the first line is the trial that comes nearest.
    assert abs(best - 0.3) == min(abs(float(row[TUNED]) - 0.3) for row in found) < 0.06
    assert f'--gin_bindings="{TUNED}={found[0][TUNED]}"' in capsys.readouterr().out


def test_a_search_that_goes_on_is_that_which_never_stopped(tmp_path, script, capsys):
    search.run(make(tmp_path / "once", trials=8), 1, places.LOCAL)
    for count in (3, 8):
        search.run(make(tmp_path / "twice", trials=count), 1, places.LOCAL)
    assert training.read_history(tmp_path / "once") == training.read_history(tmp_path / "twice")
    search.run(make(tmp_path / "twice", trials=8), 1, places.LOCAL)
    assert len(training.read_history(tmp_path / "twice")) == 8


def test_a_trial_that_was_interrupted_goes_on_with_its_values(tmp_path, script, capsys):
    out = tmp_path / "out"
    search.run(make(out, trials=2), 1, places.LOCAL)
    backend = optuna.storages.journal.JournalFileBackend(str(out / search.JOURNAL))
    study = optuna.load_study(study_name="rigl", storage=optuna.storages.JournalStorage(backend))
    left = study.ask({TUNED: optuna.distributions.FloatDistribution(0.05, 0.6)})
    search.run(make(out, trials=3), 1, places.LOCAL)
    value = search.round_value(left.params[TUNED])
    assert training.read_history(out)[-1] == f"rigl,init_drop_fraction={value}/seed_0"


def test_the_objective_is_the_mean_over_seeds(tmp_path, script, capsys):
    out = tmp_path / "out"
    search.run(make(out, trials=2, seeds=(0, 1, 2)), 2, places.LOCAL)
    for row in trials(out):
        # The stand-in adds 0.001 per seed.
        expected = 0.9 - (float(row[TUNED]) - 0.3) ** 2 + 0.001
        assert float(row["validation_accuracy_mean"]) == pytest.approx(expected, abs=1e-5)
        assert row["runs"] == "3"


def test_another_search_needs_another_directory(tmp_path, script, capsys):
    out = tmp_path / "out"
    search.run(make(out, trials=1), 1, places.LOCAL)
    with pytest.raises(RunError, match=r"belongs to another search \(.* differs\); choose another --out"):
        search.run(make(out, trials=2, seeds=(0, 1)), 1, places.LOCAL)


# The worst run of all never ends by itself.
ENDLESS = """
if bound["mask_updater.init_drop_fraction"] == "0.6":
    (run / "result.json").unlink()
    import time
    time.sleep(600)
"""


def test_a_trial_that_is_worse_than_most_is_given_up(tmp_path, script, capsys):
    with open(script, "a") as file:
        file.write(ENDLESS)
    out = tmp_path / "out"
    # Optuna gives up nothing before it has five complete trials.
    search.run(make(out, trials=5, prunes=True), 1, places.LOCAL)
    backend = optuna.storages.journal.JournalFileBackend(str(out / search.JOURNAL))
    study = optuna.load_study(study_name="rigl", storage=optuna.storages.JournalStorage(backend))
    study.enqueue_trial({TUNED: 0.6})
    search.run(make(out, trials=6, prunes=True), 1, places.LOCAL)
    found = trials(out)
    assert [row["state"] for row in found] == ["complete"] * 5 + ["pruned"]
    assert (found[-1][TUNED], found[-1]["runs"]) == ("0.6", "0")


def test_curves_of_running_runs(tmp_path):
    assert search.read_curve(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "validation_accuracy": 0.1}\n{"step": 5, "validation_accuracy": 0.5}\n{"step": 10}\n{"st'
    )
    assert search.read_curve(tmp_path) == {5: 0.5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tune=SPARSITY=0.9:0.8"], "--tune SPARSITY=0.9:0.8 is an empty range"),
        (["--tune=SPARSITY=0.5:2.0"], "rigl,SPARSITY=2.0: "),
        (["--tune=SPARSITY=0.5:0.9", "--over=SPARSITY=0.8"], "SPARSITY is there twice"),
        (["--tune=UPDATE_FREQ=50:100", "--gin_bindings=data.validation_size=0"], "rigl holds no images out, and"),
        (["--tune=SPARSITY=0.5:0.9", "--list"], "--list prints the commands of a grid;"),
        (["--tune=SPARSITY=0.5:0.9", "--trials=0"], "--trials=0 must be at least 1."),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(words, message, tmp_path, capsys):
    assert __main__.main(["--gin_config=configs/rigl.gin", *words, f"--out={tmp_path / 'out'}"]) != 0
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {message}"), error
    assert not (tmp_path / "out" / search.JOURNAL).exists()
