"""What a layer has seen in a training step, from which the gradient of a weight that does not exist follows."""

import tensorflow as tf


class Recorder:
    """Keeps the inputs of a layer and the gradients of its outputs while it is switched on.

    Neither is state of the layer: they are of one step, and no checkpoint holds them.
    """

    def __init__(self, rows: int, columns: int, dtype: str) -> None:
        """Creates the recorder, switched off.

        Args:
          rows: inputs of the layer (count).
          columns: outputs of the layer (count).
          dtype: of both.
        """
        self._is_on = tf.Variable(False, trainable=False)
        self._seen = [
            tf.Variable(tf.zeros([0, size], dtype), shape=[None, size], trainable=False) for size in (rows, columns)
        ]

    def switch(self, is_on: bool) -> None:
        """Switches the recorder on or off; forgets what it has seen."""
        self._is_on.assign(is_on)
        for seen in self._seen:
            seen.assign(tf.zeros([0, seen.shape[1]], seen.dtype))

    def read(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns inputs [M, R] and gradients of the outputs [M, O] of all calls since it was switched on."""
        x, dy = (tf.convert_to_tensor(seen) for seen in self._seen)
        return x, dy

    def watch(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns the outputs of a call as they are; records when their gradient arrives.

        Args:
          x: inputs [M, R].
          y: outputs [M, O].
        """

        @tf.custom_gradient
        def same(y: tf.Tensor) -> tuple[tf.Tensor, object]:
            def record(dy: tf.Tensor) -> tf.Tensor:
                tf.cond(self._is_on, lambda: self._append(x, dy), lambda: tf.constant(0))
                return dy

            return tf.identity(y), record

        return same(y)

    def _append(self, *pair: tf.Tensor) -> tf.Tensor:
        for seen, new in zip(self._seen, pair, strict=True):
            seen.assign(tf.concat([seen, new], axis=0))
        return tf.constant(0)
