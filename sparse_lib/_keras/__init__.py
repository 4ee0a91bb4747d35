"""What touches Keras' or TensorFlow's private API: graphs, layer kinds, call tracing, precision."""
