"""Schedules against published values and hand-worked numbers, in every way of running them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import learning_rates, schedules
from tests.golden_values import read_golden

_GOLDEN = read_golden("schedules")
_TF1 = read_golden("schedules_tf1")
_PRUNING = read_golden("pruning")
_COSINE_RATE = learning_rates.learning_rate_schedule("cosine", 0.05, total_steps=11719)


def _close(found, truth):
    np.testing.assert_allclose(found, truth, rtol=2e-6, atol=3e-8)


@pytest.mark.parametrize("last_update_step", [-1, 0, 750, 7500])
def test_published_update_steps(last_update_step):
    schedule = schedules.UpdateSchedule.until(last_update_step, frequency=100)
    truth = _GOLDEN["is_update_iter"][str(last_update_step)]
    compiled = tf.function(schedule.is_update_step, jit_compile=True)
    for step, due in truth.items():
        assert schedule.is_update_step(int(step)) is due
        assert bool(schedule.is_update_step(tf.constant(int(step), tf.int64))) is due
        assert bool(compiled(tf.constant(int(step)))) is due
    assert schedule.never == (last_update_step == 0)


@pytest.mark.parametrize("case", _TF1, ids=lambda case: case["anneal"])
def test_published_tf1_updates_and_fractions(case):
    init, end, frequency = case["drop_fraction"], case["end_step"], case["frequency"]
    schedule = schedules.UpdateSchedule(case["begin_step"], end, frequency)
    fraction = {
        "constant": schedules.Constant(init),
        "cosine": schedules.Cosine(init, end),
        "exponential_3": schedules.InversePower(init, end, 3),
        "exponential_.3": schedules.InversePower(init, end, 0.3),
    }[case["anneal"]]
    for step, last_update, due, value in case["rows[step,last_update_step,is_update,drop_fraction]"]:
        # There an update also comes due when earlier ones were missed; ours keep to their grid.
        if last_update % frequency == 0 and step % frequency == 0:
            assert schedule.is_update_step(step) is due
        if due:
            _close(fraction(step), value)


@pytest.mark.parametrize(
    ("name", "fraction"),
    [
        ("constant", schedules.Constant(0.3)),
        ("cosine_last7500", schedules.Cosine(0.3, 7500)),
        ("cosine_last11719", schedules.Cosine(0.3, 11719)),
        ("lr", schedules.LearningRateScaled(0.3, _COSINE_RATE)),
    ],
)
def test_published_drop_fractions(name, fraction):
    steps = _GOLDEN["steps"]
    _close([fraction(step) for step in steps], _GOLDEN["schedules"][name])


def test_published_learning_rate():
    _close([_COSINE_RATE(s) for s in _GOLDEN["steps"]], _GOLDEN["lr_cosine_0.05_11719"])


@pytest.mark.parametrize(
    ("name", "schedule", "sparsity"),
    [
        (
            "poly_0_0.95_3000_7000_f100",
            schedules.UpdateSchedule(3000, 7000, 100),
            schedules.PolynomialSparsity(0.0, 0.95, 3000, 7000),
        ),
        (
            "poly_0_0.98_3000_7000_f100",
            schedules.UpdateSchedule(3000, 7000, 100),
            schedules.PolynomialSparsity(0.0, 0.98, 3000, 7000),
        ),
        (
            "poly_0.5_0.9_100_1100_p1_f50",
            schedules.UpdateSchedule(100, 1100, 50),
            schedules.PolynomialSparsity(0.5, 0.9, 100, 1100, power=1),
        ),
        ("const_0.9_100", schedules.UpdateSchedule(100), schedules.Constant(0.9)),
    ],
)
def test_published_pruning_schedules(name, schedule, sparsity):
    for step, due, value in _PRUNING[name]:
        assert schedule.is_update_step(step) is due
        np.testing.assert_allclose(sparsity(step), value, rtol=1e-6, atol=6e-8)


_FUNCTIONS = {
    "constant": (schedules.Constant(0.3), {0: 0.3, 10**9: 0.3}),
    "cosine": (schedules.Cosine(0.4, 600), {0: 0.4, 200: 0.3, 300: 0.2, 600: 0, 601: 0}),
    # 300 steps from 100 on: a third of them at 200, where the cosine of 60 degrees is 1/2.
    "late cosine": (schedules.Cosine(0.4, 400, begin=100), {0: 0.4, 100: 0.4, 200: 0.3, 250: 0.2, 300: 0.1, 400: 0}),
    "late cubic": (schedules.InversePower(0.8, 300, 3, begin=100), {0: 0.8, 100: 0.8, 200: 0.1, 300: 0, 900: 0}),
    "linear": (schedules.InversePower(0.4, 400, 1), {0: 0.4, 100: 0.3, 400: 0, 500: 0}),
    "cubic": (schedules.InversePower(0.8, 400, 3), {0: 0.8, 200: 0.1, 400: 0, 900: 0}),
    "scaled": (
        schedules.LearningRateScaled(
            0.3, learning_rates.learning_rate_schedule("piecewise", 2.0, boundaries=[5], factors=[0.1])
        ),
        {0: 0.3, 4: 0.3, 5: 0.03},
    ),
    "pruning": (
        schedules.PolynomialSparsity(0.2, 1.0, 10, 20),
        {0: 0.2, 10: 0.2, 15: 0.9, 20: 1.0, 99: 1.0},
    ),
    "constant rate": (learning_rates.learning_rate_schedule("constant", 0.1), {0: 0.1, 10**9: 0.1}),
    "warm constant": (
        learning_rates.learning_rate_schedule("constant", 0.8, warmup_steps=4),
        {0: 0, 1: 0.2, 4: 0.8, 5: 0.8},
    ),
    "cosine rate": (
        learning_rates.learning_rate_schedule("cosine", 0.8, total_steps=30),
        {0: 0.8, 10: 0.6, 20: 0.2, 30: 0, 31: 0},
    ),
    "warm cosine": (
        learning_rates.learning_rate_schedule("cosine", 0.8, total_steps=34, warmup_steps=4),
        {0: 0, 1: 0.2, 4: 0.8, 14: 0.6, 24: 0.2, 34: 0, 40: 0},
    ),
    # Cycles of 10, 20 and 40 steps that begin at 0, 10 and 30, each half as high as the one before.
    "restarts": (
        learning_rates.learning_rate_schedule("sgdr", 0.8, restarts={"cycle": 10, "growth": 2.0, "factor": 0.5}),
        {0: 0.8, 5: 0.4, 10: 0.4, 15: 0.2 + 0.2 * 0.5**0.5, 20: 0.2, 30: 0.2, 50: 0.1, 70: 0.1},
    ),
    "warm restarts": (
        learning_rates.learning_rate_schedule("sgdr", 0.8, warmup_steps=4, restarts={"cycle": 10, "growth": 1.0}),
        {0: 0, 1: 0.2, 4: 0.8, 9: 0.4, 14: 0.4, 19: 0.2, 24: 0.2},
    ),
    "warm piecewise": (
        learning_rates.learning_rate_schedule(
            "piecewise", 1.6, warmup_steps=5, boundaries=[30, 70], factors=[0.1, 0.01]
        ),
        {0: 0, 1: 0.32, 5: 1.6, 29: 1.6, 30: 0.16, 69: 0.16, 70: 0.016, 10**6: 0.016},
    ),
}


@pytest.mark.parametrize("mode", ["python", "eager", "variable", "graph", "xla"])
@pytest.mark.parametrize("name", _FUNCTIONS)
def test_hand_worked_values_in_every_mode(name, mode):
    schedule, truth = _FUNCTIONS[name]
    compiled = tf.function(schedule, jit_compile=mode == "xla")
    call = {
        "python": schedule,
        "eager": lambda step: schedule(tf.constant(step)),
        "variable": lambda step: schedule(keras.Variable(step, dtype="int64", trainable=False)),
        "graph": lambda step: compiled(tf.constant(step, tf.int64)),
        "xla": lambda step: compiled(tf.constant(step, tf.int64)),
    }[mode]
    for step, value in truth.items():
        found = call(step)
        assert found.dtype == tf.float32
        assert found.shape == ()
        np.testing.assert_allclose(found, value, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("begin", [0, 7, 100])
@pytest.mark.parametrize("end", [None, 100, 150])
@pytest.mark.parametrize("frequency", [1, 25, 40])
def test_listed_steps_are_the_update_steps(begin, end, frequency):
    schedule = schedules.UpdateSchedule(begin, end, frequency)
    for start, stop in [(0, 300), (8, 9), (50, 50), (101, 260), (90, 40)]:
        due = [step for step in range(start, stop) if schedule.is_update_step(step)]
        assert schedule.steps(start, stop) == due
    assert schedule.steps(0, 300)[0] == begin


def test_a_schedule_without_updates():
    schedule = schedules.UpdateSchedule.no_updates()
    assert schedule.never
    assert schedule.steps(0, 1000) == []
    assert not any(schedule.is_update_step(step) for step in range(200))
    assert not schedules.UpdateSchedule(0, 0).never
    assert schedules.UpdateSchedule(0, 0).steps(0, 1000) == [0]


def test_annealed_fractions_never_rise_and_never_leave_their_range():
    steps = tf.range(0, 1200, 40)
    for schedule in (
        schedules.Cosine(0.5, 1000),
        schedules.InversePower(0.5, 1000, 0.3),
        schedules.InversePower(0.5, 1000, 3),
    ):
        values = np.array([schedule(step) for step in steps])
        assert values[0] == 0.5
        assert np.all(np.diff(values) <= 0)
        assert np.all(values[steps.numpy() >= 1000] == 0)


def test_fraction_scaled_by_a_warm_learning_rate():
    rate = learning_rates.learning_rate_schedule("constant", 0.8, warmup_steps=4)
    with pytest.raises(ValueError, match="reference learning rate is 0.0; give reference="):
        schedules.LearningRateScaled(0.3, rate)
    fraction = schedules.LearningRateScaled(0.3, rate, reference=0.8)
    np.testing.assert_allclose([fraction(s) for s in (0, 2, 4)], [0, 0.15, 0.3], rtol=1e-6)
    assert float(schedules.LearningRateScaled(0.3, rate, reference=0.1)(4)) == 1.0


def test_fraction_scaled_by_the_learning_rate_can_be_made_inside_a_graph():
    @tf.function
    def fraction(step):
        return schedules.LearningRateScaled(0.3, _COSINE_RATE)(step)

    _close(fraction(tf.constant(5000)), _GOLDEN["schedules"]["lr"][_GOLDEN["steps"].index(5000)])


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize("kind", ["constant", "cosine", "piecewise", "sgdr"])
def test_learning_rates_survive_serialisation_in_an_optimizer(kind, warmup_steps):
    arguments = {
        "constant": {},
        "cosine": {"total_steps": 20},
        "piecewise": {"boundaries": [8], "factors": [0.5]},
        "sgdr": {"restarts": {"cycle": 5}},
    }[kind]
    rate = learning_rates.learning_rate_schedule(kind, 0.3, warmup_steps=warmup_steps, **arguments)
    optimizer = keras.optimizers.SGD(rate)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    variable = keras.Variable(np.zeros(1, "float32"))
    again.build([variable])
    travelled = 0.0
    for step in range(12):
        assert float(again.learning_rate) == float(rate(step))
        again.apply([tf.ones(1)])
        travelled += float(rate(step))
    np.testing.assert_allclose(variable.numpy(), [-travelled], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.UpdateSchedule(frequency=0), "frequency is 0; give at least 1"),
        (lambda: schedules.UpdateSchedule(end=-1), "end=None for updates that never stop"),
        (lambda: schedules.UpdateSchedule(begin=-5), "give steps of at least 0"),
        (lambda: schedules.UpdateSchedule(begin=50, end=40), "No update lies between"),
        (lambda: schedules.UpdateSchedule.until(-2), "end=None for updates that never stop"),
        (lambda: schedules.Constant(1.2), r"constant is 1.2; give a fraction in \[0, 1\]"),
        (lambda: schedules.Cosine(-0.1, 10), "initial drop fraction is -0.1"),
        (lambda: schedules.Cosine(0.3, None), "cosine needs the step at which it reaches 0"),
        (lambda: schedules.Cosine(0.3, -1), "cosine needs the step at which it reaches 0"),
        (lambda: schedules.InversePower(0.3, 0), "power needs the step at which it reaches 0"),
        (lambda: schedules.Cosine(0.3, 10, begin=10), "cosine falls from step 10 to 10; give an end after the begin"),
        (lambda: schedules.InversePower(0.3, 9, begin=-1), "starts to fall at step -1"),
        (lambda: schedules.InversePower(0.3, 9, 0), "power is 0; give a positive number"),
        (lambda: schedules.PolynomialSparsity(0, 1.1, 0, 9), "final sparsity is 1.1"),
        (lambda: schedules.PolynomialSparsity(0, 0.9, 9, 9), "give an end after the begin"),
        (lambda: schedules.PolynomialSparsity(0, 0.9, 0, 9, -1), "power is -1"),
    ],
)
def test_bad_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "peak", "arguments", "message"),
    [
        ("step", 0.1, {}, "Unknown learning-rate schedule 'step'; use"),
        ("constant", 0.0, {}, "peak learning rate is 0.0"),
        ("constant", 0.1, {"warmup_steps": -1}, "warm-up has -1 steps"),
        ("constant", 0.1, {"boundaries": [1], "factors": [0.1]}, "only to it"),
        ("constant", 0.1, {"restarts": {"cycle": 5}}, "to the schedule 'sgdr', and only to it"),
        ("sgdr", 0.1, {}, "Give restarts, with the length of the first cycle"),
        ("sgdr", 0.1, {"restarts": {"cycle": 0}}, "first cycle has 0 steps"),
        ("sgdr", 0.1, {"restarts": {"cycle": 5, "growth": 0.5}}, "grow by 0.5; give a factor of at least 1"),
        ("sgdr", 0.1, {"restarts": {"cycle": 5, "factor": 0.0}}, "0.0 times as high"),
        ("piecewise", 0.1, {}, "Give boundaries and factors to the piecewise schedule"),
        ("piecewise", 0.1, {"boundaries": [1, 2], "factors": [0.1]}, "2 boundaries and 1 factors"),
        ("piecewise", 0.1, {"boundaries": [2, 2], "factors": [0.1, 0.01]}, "do not rise"),
        ("cosine", 0.1, {}, "cosine needs total_steps after its 0 steps of warm-up"),
        ("cosine", 0.1, {"total_steps": 5, "warmup_steps": 5}, "after its 5 steps of warm-up"),
    ],
)
def test_bad_learning_rates(kind, peak, arguments, message):
    with pytest.raises(ValueError, match=message):
        learning_rates.learning_rate_schedule(kind, peak, **arguments)
