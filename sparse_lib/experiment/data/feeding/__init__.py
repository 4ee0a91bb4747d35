"""Reading a data set while training: batch order, resident arrays, streams, decoding, augmentation."""
