"""A small transformer with sparse attention and feed-forward kernels, on a synthetic task: sorting five digits.

python transformer.py
"""

import keras
import numpy as np

import sparse_lib

LENGTH, WIDTH, EPOCHS, BATCH = 5, 64, 8, 128

random = np.random.default_rng(0)
x = random.integers(0, 10, (8_000, LENGTH))
y = np.sort(x, axis=1)

keras.utils.set_random_seed(0)
tokens = keras.Input((LENGTH,), dtype="int32")
# Computed from the tokens: an embedding of a constant would be a constant of the model, and not be trained.
places = keras.ops.cumsum(keras.ops.ones_like(tokens), axis=1) - 1
hidden = keras.layers.Embedding(10, WIDTH, name="digits")(tokens)
hidden = hidden + keras.layers.Embedding(LENGTH, WIDTH, name="places")(places)
for block in range(2):
    attended = keras.layers.MultiHeadAttention(4, WIDTH // 4, name=f"attention{block}")(hidden, hidden)
    hidden = keras.layers.LayerNormalization(name=f"norm{block}a")(hidden + attended)
    wide = keras.layers.Dense(4 * WIDTH, activation="gelu", name=f"wide{block}")(hidden)
    narrow = keras.layers.Dense(WIDTH, name=f"narrow{block}")(wide)
    hidden = keras.layers.LayerNormalization(name=f"norm{block}b")(hidden + narrow)
model = keras.Model(tokens, keras.layers.Dense(10, name="logits")(hidden))

# Query, key, value, output and feed-forward kernels are sparse; embeddings, norms and biases stay dense.
masks = sparse_lib.sparsify(model, sparsity=0.8, distribution="uniform", custom={"logits": 0.0})
steps = EPOCHS * (len(x) * 9 // 10 // BATCH)
updater = sparse_lib.RigL(frequency=25, end_step=3 * steps // 4)
optimizer = sparse_lib.SparseOptimizer(keras.optimizers.Adam(2e-3), masks, updater)

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer, loss, metrics=["accuracy"])
model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, validation_split=0.1, verbose=2)

print(masks.report())
sequence = x[:1]
print(f"{sequence[0]} sorted: {model.predict(sequence, verbose=0).argmax(-1)[0]}")
