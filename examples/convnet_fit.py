"""RigL in `model.fit`: a small convolutional network on handwritten digits, at sparsity 0.9 from start to end.

python convnet_fit.py
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sparse_lib

EPOCHS, BATCH = 15, 64

images, labels = load_digits(return_X_y=True)
images = (images / 16.0).reshape(-1, 8, 8, 1).astype("float32")
x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="conv2"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu", name="dense1"),
        keras.layers.Dense(10, name="logits"),
    ]
)

# Masks may change during the first three quarters of training, as in the RigL paper.
steps = EPOCHS * (len(x_train) // BATCH)
masks = sparse_lib.sparsify(model, sparsity=0.9, distribution="erk")
updater = sparse_lib.RigL(frequency=20, end_step=3 * steps // 4)
optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), masks, updater)

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer, loss, metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=BATCH, epochs=EPOCHS, validation_data=(x_test, y_test), verbose=2)

print(masks.report())
print(f"test accuracy {model.evaluate(x_test, y_test, verbose=0)[1]:.3f} at sparsity {masks.sparsity():.3f}")
