"""RigL in a custom training loop: dense gradients in, sparse weights out.

python custom_loop.py
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import sparse_lib

STEPS, BATCH = 400, 64

images, labels = load_digits(return_X_y=True)
x = tf.constant(images / 16.0, tf.float32)
y = tf.constant(labels, tf.int32)

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(128, activation="relu", name="dense1"),
        keras.layers.Dense(64, activation="relu", name="dense2"),
        keras.layers.Dense(10, name="logits"),
    ]
)
masks = sparse_lib.sparsify(model, sparsity=0.9)
optimizer = sparse_lib.SparseOptimizer(keras.optimizers.Adam(1e-3), masks, sparse_lib.RigL(frequency=50, end_step=300))
optimizer.build(model.trainable_variables)
loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@tf.function
def train_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Takes one step; the optimizer decides whether it trains the weights or updates the masks."""
    with tf.GradientTape() as tape:
        loss = loss_of(y, model(x, training=True))
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return loss


batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y), seed=0).repeat().batch(BATCH).take(STEPS)
before = [mask.numpy() for mask in masks.values()]
for step, (inputs, targets) in enumerate(batches):
    loss = train_step(inputs, targets)
    if step % 100 == 0:
        print(f"step {step:3d}  loss {loss.numpy():.3f}  sparsity {masks.sparsity():.4f}")

accuracy = tf.reduce_mean(tf.cast(tf.argmax(model(x), -1, tf.int32) == y, tf.float32))
moved = sum(int((old & ~new.numpy()).sum()) for old, new in zip(before, masks.values(), strict=True))
print(f"training accuracy {accuracy.numpy():.3f}; {moved} of {sum(masks.active())} active weights have moved")
