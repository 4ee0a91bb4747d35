"""Where data sets come from: embedded digits, TensorFlow Datasets, .npz files, text."""
