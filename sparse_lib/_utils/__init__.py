"""Helpers that know nothing of sparsity: atomic files, suggestions in error messages, tf.distribute."""
