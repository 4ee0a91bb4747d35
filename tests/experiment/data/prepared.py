"""Small data sets that TensorFlow Datasets has prepared on disk."""

import numpy as np
import tensorflow_datasets as tfds


def pictures(count, shape, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def prepare(
    data_dir,
    name,
    splits,
    *,
    shape=(6, 5, 3),
    classes=3,
    label=None,
    version="1.0.0",
    encoding=None,
    unlabelled=(),
    file_format=None,
):
    """Writes a TFDS set as its own tools do; `splits` maps names to lists of images.

    Image `i` of a split has the label `i % classes`, or -1 in the splits that are unlabelled.
    """

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=shape, encoding_format=encoding),
                "label": label or tfds.features.ClassLabel(num_classes=classes),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {key: self._generate_examples(key, images) for key, images in splits.items()}

        def _generate_examples(self, key, images):
            for position, image in enumerate(images):
                yield position, {"image": image, "label": -1 if key in unlabelled else position % classes}

    Prepared.name = name
    builder = Prepared(data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare()
    return builder


def registered(data_dir, name, splits, **options):
    """Prepares a set in the version that its registered builder looks for."""
    return prepare(data_dir, name, splits, version=str(tfds.builder(name, data_dir=data_dir).version), **options)
