"""RigL on several devices: all have the same masks, because gradients are summed before weights are ranked.

Uses all GPUs of the machine; without a GPU, the CPU is split into two devices.

python several_devices.py
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import sparse_lib

devices = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices("GPU")]
if not devices:
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    devices = ["CPU:0", "CPU:1"]
strategy = tf.distribute.MirroredStrategy(devices)

images, labels = load_digits(return_X_y=True)
images = (images / 16.0).astype("float32")

# Model, masks and optimizer are created in the scope; nothing else changes. Each device gets a part of the batch.
with strategy.scope():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu", name="dense1"),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    masks = sparse_lib.sparsify(model, sparsity=0.9)
    updater = sparse_lib.RigL(frequency=20, end_step=150)
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), masks, updater)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])

batches = (
    tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(labels), seed=0).batch(64, drop_remainder=True)
)
model.fit(batches, epochs=10, verbose=0)

(mask, *others), *_ = [strategy.experimental_local_results(mask) for mask in masks.variables_by_kernel]
same = all((mask.numpy() == other.numpy()).all() for other in others)
print(f"training accuracy {model.history.history['accuracy'][-1]:.3f} on {strategy.num_replicas_in_sync} devices")
print(f"masks are the same on all of them: {same}")
