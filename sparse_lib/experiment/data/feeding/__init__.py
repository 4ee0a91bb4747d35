"""How training reads a data set: batch order, resident arrays, streams, decoding, augmentation."""
