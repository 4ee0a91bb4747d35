"""What `data.*` configures: the data set and how it is read."""

import dataclasses

from sparse_lib.experiment.settings import Settings, Size, Step

AUTO = "auto"
# Sets that come with the requirements of this package, or are made of such.
SEQUENCES = ("mnist1d", "mnist1d_shuffled")
EMBEDDED = ("digits", "digits_large", "mnist_5k", "mnist_large", *SEQUENCES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Settings, name="data"):
    """The data set, and how its images are split, preprocessed and augmented.

    Attributes:
      name: `mnist_5k`, `mnist_large`, `digits`, `digits_large`, and `mnist1d` and `mnist1d_shuffled` (sequences of 40
        values) are embedded and need no network; a name that ends in `.npz` is a file of images, one in `.txt` a text
        whose characters are predicted; every other name is looked up in TensorFlow Datasets.
      validation_size: images that are held out of training (count); each kind of set has its own default. 0 trains on
        all of them and leaves the validation split empty.
      data_dir: where TFDS keeps prepared sets, or the folder of the file.
      cache_dir: where generated and decoded arrays are kept; by default `$SPARSE_LIB_CACHE`, else
        `~/.cache/sparse_lib`.
      download: whether TFDS may download and prepare a set that is missing.
      image_size: height and width that images of a TFDS set are resized to (pixels); 224 for imagenet2012.
      preprocessing: of the pixels: `unit` ([0, 1]), `mean_std` (published statistics of the data set), `per_image`,
        `symmetric` ([-1, 1]), `caffe` or `rigl`. `auto` is `mean_std` for cifar10 and cifar100, `rigl` for
        imagenet2012, `unit` for all others.
      augmentation: `crop_flip`, `inception` (images on disk), or None. `auto` is `crop_flip` for cifar10 and cifar100,
        `inception` for imagenet2012, None for all others.
      on_disk: whether images stay encoded on disk and are decoded while training; None means for imagenet2012.
    """

    name: str = "digits"
    validation_size: Step | None = None
    data_dir: str | None = None
    cache_dir: str | None = None
    download: bool = False
    image_size: Size | None = None
    preprocessing: str = AUTO
    augmentation: str | None = AUTO
    on_disk: bool | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether the set comes with the package."""
        return self.name in EMBEDDED

    @property
    def is_from_tfds(self) -> bool:
        """Whether the set is one of TensorFlow Datasets."""
        return not self.is_embedded and not self.name.endswith((".npz", ".txt"))
