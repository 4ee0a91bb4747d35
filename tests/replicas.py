"""The one strategy of two replicas that all tests of a process share."""

import functools

import tensorflow as tf


@functools.cache
def two_replicas() -> tf.distribute.Strategy:
    """Two logical CPUs. A second strategy on the same devices would use the same keys for its collective operations,
    which fail for the whole process where their shapes differ.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
