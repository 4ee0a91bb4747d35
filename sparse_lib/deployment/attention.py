"""How multi-head attention treats channels, and which of its heads do nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparse_lib.deployment.rule import Constants, Masks, Rule, no_constants

# Inputs of a call in the order of its arguments; the value is also the key of a call without one.
_PARTS = ("query", "value", "key")


class Attention(Rule):
    """Multi-head attention: heads are independent of each other until their sum.

    y = b + sum_h softmax(Q_h K_h^T) V_h O_h,  V_h = x W_h + w_h

    A head is dead if every unit of its values is constant or not read by O_h. The rows of the softmax sum to 1, so that
    a constant unit adds the same to every position: it is folded into b.
    """

    sized = True

    def __init__(self, layer: Any, *, is_followed: bool) -> None:
        """Reads the weights.

        Args:
          layer: the layer.
          is_followed: whether channels can be followed from the inputs to the output; if not, heads are removed only
            if they are exactly 0.
        """
        super().__init__(layer)
        config = layer.get_config()
        self._has_gate = bool(config.get("use_gate"))
        # In the order in which Keras builds them.
        names = ["query", "key", *(["gate"] if self._has_gate else []), "value", "output"]
        weights, step = layer.get_weights(), 2 if layer.use_bias else 1
        self._kernels = dict(zip(names, weights[::step], strict=True))
        biases = weights[1::step] if layer.use_bias else [np.zeros(w.shape[1 + (w is weights[-1]) :]) for w in weights]
        self._biases = dict(zip(names, biases, strict=True))
        self._is_followed = is_followed and self._kernels["output"].ndim == 3
        self.makes, self.reads_all = self._is_followed, not self._is_followed
        # Dropout and a gate leave only zeros constant.
        self._folds = self._is_followed and not self._has_gate and not layer.dropout

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        """Output channels that no unit varies."""
        if not self._is_followed:
            return no_constants(width)
        varying, values = self._units(inputs)
        output = self._kernels["output"]
        known = ~(varying[..., None] & (output != 0)).any((0, 1))
        sums = np.einsum("hd,hdo->o", values, output) + self._biases["output"]
        return Constants(known, np.where(known, sums, 0.0))

    def needs(self, inputs: Sequence[Constants], dropped: np.ndarray) -> list[np.ndarray]:
        """Input channels that the kept heads read."""
        if not self._is_followed:
            return [np.ones_like(each.known) for each in inputs]
        heads = self.heads(~dropped, inputs)
        read = {name: (self._kernels[name][:, heads] != 0).any((1, 2)) for name in ("query", "key", "value")}
        if self._has_gate:
            read["query"] |= (self._kernels["gate"][:, heads] != 0).any((1, 2))
        sides = [read["query"], read["value"], read["key"]]
        if len(inputs) == 2:
            sides = [read["query"], read["value"] | read["key"]]
        return [side & ~self._is_foldable(each) for side, each in zip(sides, inputs, strict=True)]

    def heads(self, kept: np.ndarray, inputs: Sequence[Constants]) -> np.ndarray:
        """Heads with a unit that varies and is read; the first if there is none."""
        output = self._kernels["output"]
        varying, _ = self._units(inputs)
        if self._is_followed:
            read = (output[..., kept] != 0).any(-1)
        else:
            read = (output != 0).reshape(*output.shape[:2], -1).any(-1)
        heads = (varying & read).any(-1)
        if not heads.any():
            heads[0] = True
        return heads

    def config(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> dict[str, Any]:
        """Heads and output channels."""
        changes: dict[str, Any] = {"num_heads": int(self.heads(kept, inputs).sum())}
        return {**changes, "output_shape": (int(kept.sum()),)} if self._is_followed else changes

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        """The weights of kept heads on kept channels, with what the others add in the biases."""
        heads = self.heads(kept, inputs)
        found = []
        for name in self._kernels:
            kernel, bias = self._kernels[name], self._biases[name]
            if name == "output":
                _, values = self._units(inputs)
                if self._folds:
                    bias = bias + np.einsum("hd,hdo->o", values[~heads], kernel[~heads])
                kernel = kernel[heads]
                parts = [kernel[..., kept], bias[kept]] if self._is_followed else [kernel, bias]
            else:
                rows = np.ones(len(kernel), bool)
                if self._is_followed:
                    each, rows = inputs[self._place(name, inputs)], kept_inputs[self._place(name, inputs)]
                    gone = ~rows & self._is_foldable(each)
                    bias = bias + np.einsum("c,chd->hd", each.values[gone], kernel[gone])
                parts = [kernel[rows][:, heads], bias[heads]]
            found += [part.astype(kernel.dtype) for part in parts[: 2 if self.layer.use_bias else 1]]
        return found

    def clear(self, weights: Sequence[np.ndarray], channels: np.ndarray) -> list[np.ndarray]:
        """Zeroes columns of the output's kernel and bias."""
        parts = 2 if self.layer.use_bias else 1
        return [*weights[:-parts], *super().clear(weights[-parts:], channels)]

    def clear_heads(self, weights: Sequence[np.ndarray], heads: Sequence[int]) -> list[np.ndarray]:
        """Zeroes the output's kernel on some heads."""
        found = [np.array(weight) for weight in weights]
        found[-2 if self.layer.use_bias else -1][list(heads)] = 0
        return found

    def head_sizes(self) -> np.ndarray:
        """Squared norm of the values' and the output's kernels of each head."""
        value, output = self._kernels["value"], self._kernels["output"]
        return np.sum(value**2, (0, 2)) + np.sum(output.reshape(len(output), -1) ** 2, 1)

    def _makers(self) -> list[np.ndarray]:
        return [self._kernels["output"]]

    def _place(self, name: str, inputs: Sequence[Constants]) -> int:
        """Number of the input that a kernel multiplies."""
        part = {"gate": "query", "key": "value" if len(inputs) == 2 else "key"}.get(name, name)
        return _PARTS.index(part)

    def _is_foldable(self, each: Constants) -> np.ndarray:
        """Constant input channels that the biases can hold."""
        return each.known & ((each.values == 0) | bool(self.layer.use_bias))

    def _units(self, inputs: Sequence[Constants]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each unit of the values varies, and its value if not; both [heads, value_dim]."""
        kernel = self._kernels["value"]
        bias = self._biases["value"]
        if not self._is_followed:
            varying = (kernel != 0).any(0) | (bias != 0)
            return varying, np.zeros(varying.shape)
        each = inputs[self._place("value", inputs)]
        values = bias + np.einsum("c,chd->hd", each.values, kernel.astype(np.float64))
        varying = (kernel[~self._is_foldable(each)] != 0).any(0)
        if not self._folds:
            varying |= values != 0
        return varying, np.where(varying, 0.0, values)
