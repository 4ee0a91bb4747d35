"""The gradient norm at the beginning of training, which the gradient-flow paper compares."""

from typing import Any

import numpy as np


def early_gradient_norm(metrics: list[dict[str, Any]], share: float = 0.1) -> float:
    """Mean gradient norm over the first part of training, the log step at 0 excluded.

    Args:
      metrics: records of metrics.jsonl.
      share: of the steps that count as early (fraction).

    Returns:
      The mean of `gradient_norm`, NaN without records.
    """
    last = metrics[-1]["step"] if metrics else 0
    early = [m["gradient_norm"] for m in metrics if 0 < m["step"] <= share * last]
    # A number that is not finite is null in JSON.
    return float(np.mean([np.nan if norm is None else norm for norm in early])) if early else float("nan")
