"""`mnist1d`: MNIST-1D, sequences of 40 values, made by the package of that name without a network."""

import contextlib
import logging
import os
import random
from collections.abc import Iterator
from importlib import metadata

import numpy as np

from sparse_lib.experiment.data.cache import Arrays, cache_directory, cached_arrays
from sparse_lib.experiment.data.dataset import Dataset, Split
from sparse_lib.experiment.data.holdout import hold_out

_LOG = logging.getLogger(__name__)


# Of the places of `mnist1d_shuffled`.
_SHUFFLE_SEED = 0


def load_mnist1d(
    validation_size: int | None = None, cache_dir: str | os.PathLike[str] | None = None, *, is_shuffled: bool = False
) -> Dataset:
    """Loads MNIST-1D from the cache, or makes it first (2 seconds).

    One-dimensional templates of the ten digits are padded, translated, sheared and made noisy (Greydanus & Kobak 2024,
    arXiv 2011.14439, section 2); values have zero mean and unit variance over the whole set. Arguments and seed are the
    package's, so that the 4,000 and 1,000 sequences are the published ones.

    Args:
      validation_size: sequences to hold out of the 4,000 (count); None means a tenth.
      cache_dir: see `cache_directory`.
      is_shuffled: whether the places of all sequences are permuted, by one fixed permutation: the paper's control, in
        which neighbours mean nothing (`mnist1d_shuffled`).

    Returns:
      3,600 training, 400 validation and 1,000 test sequences of shape [40, 1].

    Raises:
      InputError: if no training sequence would be left.
    """
    # The package installed may differ in what it makes.
    path = cache_directory(cache_dir) / f"mnist1d-{metadata.version('mnist1d')}.npz"
    stored = cached_arrays(path, _make)
    x_train, x_test = stored["x_train"], stored["x_test"]
    if is_shuffled:
        places = np.random.default_rng(_SHUFFLE_SEED).permutation(x_train.shape[1])
        x_train, x_test = (np.take(x, places, axis=1) for x in (x_train, x_test))
    name = "mnist1d_shuffled" if is_shuffled else "mnist1d"
    train, validation = hold_out(x_train, stored["y_train"], validation_size, name=name)
    test = Split(x_test, stored["y_test"])
    return Dataset(name, Split(*train), Split(*validation), test, num_classes=10)


def _make() -> Arrays:
    _LOG.info("Making the data set mnist1d once.")
    with _keep_random_states():
        # It imports matplotlib, and seeds the random states of Python and NumPy. Its get_dataset would download.
        from mnist1d.data import make_dataset  # noqa: PLC0415

        made = make_dataset()
    arrays = {}
    for name, suffix in (("train", ""), ("test", "_test")):
        arrays[f"x_{name}"] = made[f"x{suffix}"].astype(np.float32)[..., np.newaxis]
        arrays[f"y_{name}"] = made[f"y{suffix}"].astype(np.int32)
    return arrays


@contextlib.contextmanager
def _keep_random_states() -> Iterator[None]:
    """Restores the global random states of Python and NumPy."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
