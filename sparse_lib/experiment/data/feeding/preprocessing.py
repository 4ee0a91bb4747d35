"""Preprocessing of pixels: published conventions, by name."""

from dataclasses import dataclass

from sparse_lib._utils.errors import InputError

LARGEST_PIXEL = 255

# Channel means and standard deviations of the training images over [0, 1], as published with the models of each set.
_STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Means of ImageNet in the order blue, green, red, as the VGG group published them for Caffe.
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Preprocessing:
    """An affine map of pixels in 0 to 255: (pixel - mean) / std.

    Attributes:
      mean: one value, or one per channel (grey levels).
      std: divisor, of the same length (grey levels).
      per_image: whether mean and standard deviation are those of each image instead, over all of its values; the latter
        is at least 1 / sqrt(number of values), as in TensorFlow's per_image_standardization.
      reverses_channels: whether the order of the channels is reversed, before the mean is subtracted.
      legacy_bicubic: whether images are resized as TF1's resize_bicubic does, whose result is neither antialiased
        nor clipped to 0 to 255; antialiased bilinear otherwise.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (float(LARGEST_PIXEL),)
    per_image: bool = False
    reverses_channels: bool = False
    legacy_bicubic: bool = False


_ANYWHERE = {
    "unit": Preprocessing(),
    "per_image": Preprocessing(per_image=True),
    "symmetric": Preprocessing((LARGEST_PIXEL / 2,), (LARGEST_PIXEL / 2,)),
    "caffe": Preprocessing(_CAFFE_MEAN, (1.0,), reverses_channels=True),
}
NAMES = (*_ANYWHERE, "mean_std", "rigl")


def preprocessing(name: str, dataset: str) -> Preprocessing:
    """Looks up a convention.

    Args:
      name: `unit` gives [0, 1]; `mean_std` the published statistics of the data set; `per_image` zero mean and unit
        variance of each image; `symmetric` [-1, 1] and `caffe` BGR without its mean, for the models of
        keras.applications; `rigl` that of google-research/rigl.
      dataset: name of the data set without configuration and version.

    Returns:
      The preprocessing.

    Raises:
      InputError: if there is no such name, or it is not defined for the data set.
    """
    if name in _ANYWHERE:
        return _ANYWHERE[name]
    if name == "mean_std":
        return _published_statistics(name, dataset)
    if name != "rigl":
        raise InputError(f"preprocessing='{name}' is not known: choose one of {', '.join(NAMES)}.")
    if dataset in ("cifar10", "cifar100"):
        return _ANYWHERE["per_image"]
    if dataset == "imagenet2012":
        return _published_statistics(name, dataset, legacy_bicubic=True)
    raise InputError(
        f"preprocessing='rigl' is known for cifar10, cifar100 and imagenet2012, not for '{dataset}': "
        "choose 'unit' or 'per_image'."
    )


def _published_statistics(name: str, dataset: str, *, legacy_bicubic: bool = False) -> Preprocessing:
    if dataset not in _STATISTICS:
        raise InputError(
            f"preprocessing='{name}' needs published statistics, and '{dataset}' has none "
            f"({', '.join(_STATISTICS)} have): choose 'unit' or 'per_image'."
        )
    mean, std = (tuple(LARGEST_PIXEL * value for value in values) for values in _STATISTICS[dataset])
    return Preprocessing(mean, std, legacy_bicubic=legacy_bicubic)
