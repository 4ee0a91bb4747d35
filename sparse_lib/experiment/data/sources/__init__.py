"""Where data sets come from: embedded digits, MNIST and MNIST-1D, TensorFlow Datasets, .npz files, text."""
