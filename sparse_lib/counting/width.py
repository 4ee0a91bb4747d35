"""Width of a network of a given cost."""

from collections.abc import Callable

from sparse_lib._utils.errors import InputError


def width_multiplier(cost: Callable[[float], float], budget: float, resolution: int = 1000) -> float:
    """Finds by bisection the width at which a network has a given cost, such as that of a small-dense twin.

    Args:
      cost: maps a width factor to a cost such as parameters, bytes or FLOPs; it must not decrease with the factor.
      budget: the target cost, in the same unit.
      resolution: widths are multiples of 1 / resolution; the published ones have three decimals.

    Returns:
      The width factor of the nearest cost, the lowest of equal ones.

    Raises:
      ValueError: if even the narrowest network costs twice the budget or more.
    """
    low, high = 1, resolution
    if cost(low / resolution) >= 2 * budget:
        raise InputError(f"The narrowest network costs {cost(low / resolution):,}, but the budget is {budget:,.0f}.")
    while cost(high / resolution) < budget:
        low, high = high, 2 * high
    # The lowest width that reaches the budget; the one below may be nearer.
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle / resolution) >= budget else (middle + 1, high)
    nearest = min((max(low - 1, 1), low), key=lambda k: abs(cost(k / resolution) - budget))
    return nearest / resolution
