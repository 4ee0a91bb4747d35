"""Signs and magnitudes of initial weights taken apart: which of the two a lottery ticket needs."""

import re

import numpy as np

from sparse_lib._utils.errors import InputError

_CHANGE = re.compile(r"constant|random|flip:(\d*\.?\d+)")
# Keeps these draws apart from others of the same seed.
_STREAM = 1


def parse_change(text: str) -> tuple[str, float]:
    """Parses the name of a change of weights.

    Args:
      text: `constant`, `random`, or `flip:` and a fraction, such as `flip:0.1`.

    Returns:
      The name, and the fraction of `flip`; 0 for the others.

    Raises:
      InputError: for any other text.
    """
    match = _CHANGE.fullmatch(text)
    fraction = float(match[1] or 0) if match else 2.0
    if match is None or fraction > 1:
        raise InputError(f"{text!r} is no change of signs: use 'constant', 'random' or 'flip:F' with F from 0 to 1.")
    return text.partition(":")[0], fraction


def change(text: str, weights: np.ndarray, source: np.ndarray, *, seed: int, index: int) -> np.ndarray:
    """Changes magnitudes or signs of the active weights of a kernel.

    - `constant` keeps the signs: w <- sign(w) * sigma, where sigma is the standard deviation of the layer's initial
      weights before masking.
    - `random` keeps the magnitudes: w <- s |w|, with s = -1 or 1 at equal odds.
    - `flip:F` negates floor(F n) of the n active weights, at random.

    The first two are of Zhou et al. (2019, arXiv 1905.01067, section 3: tickets train as well with constant magnitudes,
    and not with other signs).

    Args:
      text: see `parse_change`.
      weights: of a kernel; those that are 0 are inactive and stay so.
      source: the initial weights that they come from, before masking; zeros do not count.
      seed: random seed.
      index: of the kernel; it draws from (seed, index).

    Returns:
      The changed weights.

    Raises:
      InputError: if there is no such change.

    Examples:
      >>> import numpy as np
      >>> from sparse_lib import signs
      >>> source = np.array([0.5, 1.5, -2.0, -4.0])
      >>> signs.change("constant", np.array([0.5, 0.0, -2.0, 0.0]), source, seed=0, index=0).round(3)
      array([ 2.151,  0.   , -2.151,  0.   ])
    """
    name, fraction = parse_change(text)
    if name == "constant":
        return (np.sign(weights) * np.std(source[source != 0])).astype(weights.dtype)
    rng = np.random.default_rng([seed, index, _STREAM])
    changed = weights.copy()
    if name == "random":
        return np.abs(changed) * rng.choice(np.array([-1, 1], weights.dtype), size=weights.shape)
    active = np.flatnonzero(weights)
    chosen = rng.permutation(active)[: int(fraction * len(active))]
    changed.flat[chosen] *= -1
    return changed
