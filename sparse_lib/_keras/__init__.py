"""Private API of Keras and TensorFlow: graphs, layer types, call tracing, precision, optimizers, patches."""

import keras

from sparse_lib._utils.errors import InputError

if keras.backend.backend() != "tensorflow":
    raise InputError(
        f"sparse_lib needs Keras on TensorFlow, and Keras runs on {keras.backend.backend()}: set "
        "KERAS_BACKEND=tensorflow before Keras is imported."
    )
