"""Helpers without knowledge of sparsity: atomic files, text tables, suggestions in error messages, tf.distribute."""
