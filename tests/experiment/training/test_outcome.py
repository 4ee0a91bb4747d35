"""How runs ended, against SciPy's binomial distribution and tables worked by hand."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import find, list_steps, split_checkpoint
from sparse_lib.experiment.training import outcome, run
from sparse_lib.experiment.training.loop import Loop
from sparse_lib.experiment.training.outcome import AT_CHANCE, DIVERGED, ON_PLATEAU, TRAINED, Best, Guess
from sparse_lib.experiment.training.steps import Steps
from tests.experiment import tiny

TEN = Guess(0.1, 1000)


@pytest.mark.parametrize(("chance", "n"), [(0.1, 360), (0.1, 50_000), (0.5, 20), (0.9, 100), (0.001, 5000)])
def test_guessing_explains_what_a_binomial_test_does_not_reject(chance, n):
    for right in {0, 1, n, *(round(n * chance + z * math.sqrt(n * chance * (1 - chance))) for z in range(-3, 5))}:
        if 0 <= right <= n:
            rejected = stats.binomtest(right, n, chance, alternative="greater").pvalue <= 0.001
            assert Guess(chance, n).explains(right / n) != rejected, right


def test_the_guess_is_the_largest_class():
    assert Guess.of(np.array([3, 1, 3, 0, 3])) == (0.6, 5)
    assert Guess.of(np.array([0, 0])).explains(1.0)


@pytest.mark.parametrize(("chance", "above"), [(0.1, 0.3), (0.5, 0.5 + 1 / 9), (0.01, 0.23)])
def test_the_plateau_ends_at_the_same_share_of_the_way_to_one(chance, above):
    assert Guess(chance, 10_000).plateau == pytest.approx(above)


def records(*accuracies, name="validation_accuracy", losses=None):
    losses = losses or [1.0] * len(accuracies)
    return [
        {"step": 100 * place, name: accuracy, name.replace("accuracy", "loss"): loss}
        for place, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


def test_the_step_off_the_plateau_by_hand():
    assert outcome.find_step_off_plateau(records(0.1, 0.149, 0.3, 0.301, 0.1), TEN) == 300
    assert outcome.find_step_off_plateau(records(0.1, 0.12, 0.29), TEN) is None
    assert outcome.find_step_off_plateau([], TEN) is None
    # Three right of ten are above the plateau, and no wonder.
    assert outcome.find_step_off_plateau(records(0.4, 0.7), Guess(0.1, 10)) == 100
    # Without validation images the training accuracy between log steps counts; the first log step has none.
    assert outcome.find_step_off_plateau([{"step": 0}, *records(0.2, 0.5, name="train_accuracy")], TEN) == 100


def test_the_best_step_by_hand():
    found = outcome.find_best(records(0.1, 0.8, 0.9, 0.9, 0.9, 0.7, losses=[2.3, 0.5, 0.4, 0.3, 0.3, 0.1]))
    assert found == Best(300, 0.9, 0.3)
    # A loss that is not finite is null in a file, and worse than any other.
    assert outcome.find_best(records(0.5, 0.5, losses=[None, 9.0])).step == 100
    assert outcome.find_best(records(0.5, 0.6, name="train_accuracy")) is None


@pytest.mark.parametrize(
    ("accuracies", "ended", "left"),
    [
        ((0.1, 0.5, 0.9), TRAINED, 100),
        ((0.1, 0.15, 0.2), ON_PLATEAU, None),
        ((0.1, 0.1, 0.103), AT_CHANCE, None),
        ((0.1, 0.9, 0.1), AT_CHANCE, 100),
        ((0.1, 0.9, math.nan), DIVERGED, 100),
    ],
)
def test_outcomes(accuracies, ended, left):
    told = outcome.describe(records(*accuracies[:2]), TEN, accuracies[-1])
    assert (told["outcome"], told["left_plateau_at"], told["chance_accuracy"]) == (ended, left, 0.1)
    if ended != DIVERGED:
        text = outcome.warning({**told, "validation_accuracy": accuracies[-1], "train_accuracy": 1.0})
        assert bool(text) == (ended != TRAINED)
        if ended == AT_CHANCE:
            assert ("it had left the plateau by step 100" in text) == (left == 100)


def test_a_run_that_learns_nothing_says_so(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(run.logging, "warning", lambda text, *values: told.append(text % values))
    result = tiny.train(tiny.experiment(optimizer={"learning_rate": 1e-9}), tmp_path)
    validation = tiny.dataset().validation
    assert (result["outcome"], result["left_plateau_at"]) == (AT_CHANCE, None)
    assert result["chance_accuracy"] == np.bincount(validation.labels).max() / 60
    (line,) = told
    assert line.startswith(f"{tmp_path}: The run ends at chance: an accuracy of {result['validation_accuracy']:.4f} is")
    last = tiny.lines(tmp_path)[-1]
    assert (result["validation_accuracy"], result["validation_loss"]) == pytest.approx(
        (last["validation_accuracy"], last["validation_loss"])
    )


def test_a_run_that_diverges_leaves_its_result_and_is_not_repeated(tmp_path, monkeypatch):
    of = tiny.experiment(optimizer={"learning_rate": 1e30})
    with pytest.raises(RunError, match=r"^The training loss is (nan|inf)") as first:
        tiny.train(of, tmp_path)
    stored = json.loads((tmp_path / files.RESULT).read_text())
    assert (stored["outcome"], stored["error"], stored["test_accuracy"]) == (DIVERGED, str(first.value), None)
    assert stored["steps"] == 24 and not (tmp_path / files.PREDICTIONS).exists()
    monkeypatch.setattr(Loop, "run", lambda self: pytest.fail("trained again"))
    with pytest.raises(RunError, match=r"^The training loss is") as again:
        tiny.train(of, tmp_path)
    assert str(again.value) == str(first.value)


LEARNING = {"total_steps": 40, "log_freq": 5, "save_freq": 16, "keep_checkpoints": 1, "keep_best": True}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Returns a run that forgets at its end what it has learned, so that its best log step is not the last."""
    directory = tmp_path_factory.mktemp("kept") / "run"
    of = tiny.experiment(training=LEARNING, optimizer={"learning_rate": 0.3})
    return of, directory, tiny.train(of, directory)


def test_the_best_step_is_kept_whatever_else_is(kept):
    of, directory, result = kept
    logged = tiny.lines(directory)
    best = max(logged, key=lambda record: (record["validation_accuracy"], -record["validation_loss"], -record["step"]))
    assert result["best_validation_step"] == best["step"] > 0
    assert result["best_validation_accuracy"] == best["validation_accuracy"]
    # The first, the best, and the last or the one before it: nothing is left of those that were the best once.
    assert {0, best["step"], 40} <= set(list_steps(directory)) <= {0, best["step"], 32, 40}
    assert find(directory / "ckpt-best") == str(directory / f"ckpt-{best['step']}")
    assert split_checkpoint(f"{directory}/ckpt-best") == (str(directory), None)
    told = run.evaluate(of, directory / "ckpt-best")
    assert told["validation_accuracy"] == best["validation_accuracy"]
    assert told["validation_loss"] == pytest.approx(best["validation_loss"])


def test_a_run_that_is_killed_keeps_the_same_checkpoints(kept, tmp_path, monkeypatch):
    of, directory, result = kept
    run_steps = Steps.run

    def die_late(self, step, n, **options):
        if step == 30:
            raise ZeroDivisionError
        return run_steps(self, step, n, **options)

    monkeypatch.setattr(Steps, "run", die_late)
    with pytest.raises(ZeroDivisionError):
        tiny.train(of, tmp_path / "run")
    monkeypatch.undo()
    resumed = tiny.train(of, tmp_path / "run")
    assert list_steps(tmp_path / "run") == list_steps(directory)
    assert (tmp_path / "run" / files.METRICS).read_text() == (directory / files.METRICS).read_text()
    untimed = [{k: v for k, v in r.items() if k not in ("wall_seconds", "steps_per_second")} for r in (result, resumed)]
    assert untimed[0] == untimed[1]


def test_the_best_step_needs_validation_images(tmp_path):
    full = tiny.dataset()
    empty = type(full.test)(full.test.images[:0], full.test.labels[:0])
    dataset = type(full)("none", full.train, empty, full.test, num_classes=10)
    with pytest.raises(SettingError, match="keep_best=True needs validation images"):
        tiny.train(tiny.experiment(dataset=dataset, training={"total_steps": 2, "keep_best": True}), tmp_path)
