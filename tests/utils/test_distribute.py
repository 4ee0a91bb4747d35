"""Strategies by name, and the helpers under one and two replicas."""

import pytest
import tensorflow as tf

from sparse_lib._utils import distribute
from tests.replicas import two_replicas

NO_GPU = pytest.mark.skipif(bool(tf.config.list_logical_devices("GPU")), reason="speaks of machines without a GPU")


@NO_GPU
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_default_on_a_cpu(name):
    assert distribute.make_strategy(name) is tf.distribute.get_strategy()


@NO_GPU
def test_mirrored_takes_every_logical_cpu():
    strategy = distribute.make_strategy("mirrored")
    assert strategy.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU")) > 1


@NO_GPU
def test_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="--strategy=gpu needs a GPU.*use --strategy=cpu"):
        distribute.make_strategy("gpu")


def test_unknown_name():
    with pytest.raises(ValueError, match="--strategy=horovod is not known; use one of auto, cpu, gpu, mirrored"):
        distribute.make_strategy("horovod")


SCOPES = {
    "default": tf.distribute.get_strategy,
    "one device": lambda: tf.distribute.OneDeviceStrategy("/cpu:0"),
    "two replicas": two_replicas,
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("kind", SCOPES)
def test_merged_update_of_summed_values(kind, compiled):
    strategy = SCOPES[kind]()
    with strategy.scope():
        total, last = tf.Variable(0.0), tf.Variable(10.0)

    def merged(inner, summed):
        assert tf.distribute.in_cross_replica_context() or inner.num_replicas_in_sync == 1
        doubled = distribute.per_replica(inner, lambda s: 2 * s, summed)
        distribute.assign(inner, total, doubled)
        distribute.update(inner, last, lambda copy, a, b: copy + a * b, total, doubled)

    def replica(value):
        here = tf.distribute.get_replica_context().replica_id_in_sync_group
        mine = tf.cast(here, tf.float32) + value
        summed, nothing = distribute.sum_over_replicas([mine, None])
        assert nothing is None
        distribute.merge(merged, summed)

    with strategy.scope():
        run = tf.function(lambda v: strategy.run(replica, args=(v,))) if compiled else None
        (run or (lambda v: strategy.run(replica, args=(v,))))(tf.constant(3.0))
    # One replica sums 3; two sum 3 + 4.
    expected = 2 * (7 if strategy.num_replicas_in_sync == 2 else 3)
    for variable, value in ((total, expected), (last, 10 + expected**2)):
        for copy in getattr(variable, "values", [variable]):
            assert float(copy) == value


def test_owner():
    strategy = two_replicas()
    with strategy.scope():
        assert distribute.owner(tf.Variable(0.0)) is strategy
    assert distribute.owner(tf.Variable(0.0)) is None
