"""Private API of Keras and TensorFlow: graphs, layer types, call tracing, precision, optimizers, patches."""
