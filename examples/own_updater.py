"""A dynamic sparse training method of your own: two scores make an updater.

This one drops the weights of smallest magnitude, as RigL does, and grows where the product of gradient and noise is
large: between RigL and SET. It runs in `fit`, in graphs, under XLA and on several replicas like the updaters of the
library, because a score is a pure function of tensors. Since it is registered, train.py can use it as well.

python own_updater.py
"""

import dataclasses

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import sparse_lib
from sparse_lib.updaters import DropAndGrow, Kernel, register
from sparse_lib.updaters.base import random_uniform


@register("noisy_rigl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyRigL(DropAndGrow):
    """Grows the highest |g| u^temperature with u uniform: RigL at temperature 0, close to SET at high ones.

    Attributes:
      temperature: exponent of the noise.
    """

    temperature: float = 1.0

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """Returns |g| u^temperature; the seed is a function of run, kernel and step."""
        return tf.abs(kernel.gradient) * random_uniform(kernel.weight.shape, seed) ** self.temperature


def main() -> None:
    """Compares the method with RigL and SET on the digits."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32")
    for method in (sparse_lib.RigL, NoisyRigL, sparse_lib.SET):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(128, activation="relu", name="dense1"),
                keras.layers.Dense(64, activation="relu", name="dense2"),
                keras.layers.Dense(10, name="logits"),
            ]
        )
        masks = sparse_lib.sparsify(model, sparsity=0.95)
        optimizer = sparse_lib.SparseOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9), masks, method(frequency=20, end_step=300)
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        model.fit(images, labels, batch_size=64, epochs=15, validation_split=0.2, verbose=0)
        print(f"{method.label:10} validation accuracy {model.history.history['val_accuracy'][-1]:.3f}")


if __name__ == "__main__":
    main()
