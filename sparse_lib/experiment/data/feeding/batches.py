"""The order of the training images: a pure function of the seed and the step."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sparse_lib._utils.errors import InputError

# Keeps the data order apart from other uses of the same run seed.
_STREAM = 0xDA7A


def batch_indices(*, seed: int, first_step: int, steps: int, batch_size: int, n: int) -> npt.NDArray[np.int32]:
    """Row numbers of the training images of consecutive steps.

    Epoch `e` is a permutation of `range(n)` drawn from `(seed, e)`; the epochs are concatenated and step `s` takes the
    positions `s * batch_size` to `(s + 1) * batch_size - 1`. So a batch may span two epochs, every image is seen once
    per epoch, and the rows of a step do not depend on how a run is divided into calls.

    Args:
      seed: the run's seed, not negative.
      first_step: counts from 0.
      steps: number of steps (count).
      batch_size: images per step (count); may exceed `n`.
      n: number of training images (count).

    Returns:
      `[steps, batch_size]`.

    Raises:
      InputError: if an argument is out of range.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("first_step", first_step, 0),
        ("steps", steps, 0),
        ("batch_size", batch_size, 1),
        ("n", n, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}: choose at least {least}.")
    begin, count = first_step * batch_size, steps * batch_size
    first_epoch, offset = divmod(begin, n)
    last_epoch = (begin + max(count, 1) - 1) // n
    epochs = [_permutation(seed, epoch, n) for epoch in range(first_epoch, last_epoch + 1)]
    rows = np.concatenate(epochs)[offset : offset + count]
    return rows.reshape(steps, batch_size)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> npt.NDArray[np.int32]:
    order = np.random.default_rng([seed, _STREAM, epoch]).permutation(n).astype(np.int32)
    order.flags.writeable = False
    return order
