"""Names of the tf.distribute strategies; `--help` lists them without importing TensorFlow."""

STRATEGIES = ("auto", "cpu", "gpu", "mirrored", "multiworker", "tpu")
