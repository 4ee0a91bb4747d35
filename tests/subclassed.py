"""A Keras model that is no graph of layers."""

import keras

layers = keras.layers


class Subclassed(keras.Model):
    """A model with a layer, a list of layers and a weight of its own."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.stem = layers.Dense(6, name="stem")
        self.blocks = [layers.Dense(6, name="block", use_bias=False) for _ in range(2)]
        self.scale_kernel = self.add_weight(shape=(6, 2), name="head_kernel")

    def call(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = keras.ops.relu(block(x))
        return x @ self.scale_kernel
