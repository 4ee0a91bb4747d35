"""The gradient norm at the beginning of training, which the gradient-flow paper compares."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Share of the steps that count as early (fraction).
EARLY = 0.1


def find_early_window(total_steps: Any, first_update: Any = 0) -> tuple[Any, Any]:
    """Finds the steps that count as early: a tenth of training, after the first mask update.

    Until its first mask update, a method that moves its masks is what it is compared with: the same masks left alone.

    Args:
      total_steps: length of the run, a number or numbers (step).
      first_update: the latest first mask update of all runs compared; 0 where no masks move (step).

    Returns:
      Begin, exclusive, and end, inclusive (step).
    """
    return first_update, first_update + EARLY * total_steps


def find_first_update(mask_updates: Sequence[dict[str, Any]]) -> int:
    """Finds the first mask update that grew a weight.

    Args:
      mask_updates: records of mask_updates.jsonl.

    Returns:
      Its step; 0 if there is none, as in gradual pruning.
    """
    return next((record["step"] for record in mask_updates if record["grown"]), 0)


def early_gradient_norm(metrics: list[dict[str, Any]], first_update: int = 0) -> float:
    """Mean gradient norm early in training, the log step at 0 excluded.

    Args:
      metrics: records of metrics.jsonl.
      first_update: as in `find_early_window` (step).

    Returns:
      The mean of `gradient_norm`, NaN without records.
    """
    begin, end = find_early_window(metrics[-1]["step"] if metrics else 0, first_update)
    early = [m["gradient_norm"] for m in metrics if begin < m["step"] <= end]
    # A number that is not finite is null in JSON.
    return float(np.mean([np.nan if norm is None else norm for norm in early])) if early else float("nan")
