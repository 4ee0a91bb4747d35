"""FLOPs of inference and size of a network, by an exact rule and by the published one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras

from sparse_lib import objective
from sparse_lib._keras import lora, tracing
from sparse_lib._keras.tracing import Shape
from sparse_lib._utils.errors import InputError
from sparse_lib.counting.micronet import LayerShape
from sparse_lib.counting.operations import KernelUse, countable_layers, exact_uses, product_use, published_uses
from sparse_lib.counting.products import Product, weight_products

RULES = ("honest", "micronet")


@dataclass(frozen=True)
class LayerCost:
    """Cost of one kernel, over all calls of its layer on one example.

    Attributes:
      name: path of the kernel variable; for a layer that is only an activation, its own path.
      kernel_size: number of weights of the kernel.
      nnz: number of active weights; of a `SparseDense` layer those that it has.
      bias: number of bias parameters.
      inference_flops: multiplications and additions with the active weights only.
      dense_inference_flops: the same with all weights.
      bits: size of active weights, mask and bias in bits.
      dense_bits: size of all weights and bias in bits.
    """

    name: str
    kernel_size: int
    nnz: int
    bias: int
    inference_flops: int
    dense_inference_flops: int
    bits: int
    dense_bits: int


class CostModel:
    """Counts the FLOPs and size of a model for any masks.

    The model is called once, on one example of zeros, to record its layer calls and their shapes.
    Only products with kernels, their biases and activations count: no normalization, pooling,
    residual addition or attention score. Matrix products with weights outside of Keras' own layers,
    in a layer of one's own or with a tied weight, are found in the graph and count like a kernel
    without a bias; other products with weights are refused by name. A kernel with LoRA counts as
    dense, and without its two factors, as it is once they are merged. Rules:

    - "honest": each active weight is one multiplication wherever the kernel is applied (padding
      included, as dense kernels compute it); a sum of n terms is n - 1 additions; a bias adds one
      per output element and an activation (softmax aside) counts one, where they exist, also as a
      separate layer. Without a bias as many units as possible are assumed to be alive. Weights
      count the bits of their dtype, plus one mask bit for each weight of a kernel with zeros, or the
      indices of a layer that stores these.
    - "micronet": the published rule, see `LayerShape`; only Dense, Conv2D and DepthwiseConv2D.
    """

    def __init__(self, model: keras.Model, rule: str = "honest", input_shape: Shape | None = None) -> None:
        """Runs the model on one example.

        Args:
          model: a built model.
          rule: "honest" or "micronet".
          input_shape: shape of one example without the batch dimension; needed for subclassed
            models and inputs of unknown size.

        Raises:
          ValueError: if the rule is unknown, the input shape is needed, or the model holds a
            kernel that the rule cannot count.
        """
        if rule not in RULES:
            raise InputError(f"Unknown rule {rule!r}: choose one of {', '.join(RULES)}.")
        uses_of = exact_uses if rule == "honest" else published_uses
        layers, example = countable_layers(model), tracing.example(model, 0, input_shape)
        with tracing.watch(layers) as calls:
            objective.call(model, [], [], example)
        by_owner: dict[int, list[KernelUse | LayerShape]] = {}
        for layer, inputs, outputs in calls:
            # A recurrent layer may return its state as well.
            first = keras.tree.flatten(outputs)[0]
            for owner, use in uses_of(layer, tuple(inputs.shape), tuple(first.shape)):
                by_owner.setdefault(id(owner), []).append(use)
        self._add_other_products(by_owner, layers, weight_products(model, example), rule)
        self._uses = list(by_owner.values())
        self._adapted = {kernel.path for kernel in lora.adapted_kernels(layers)}

    @staticmethod
    def _add_other_products(
        by_owner: dict[int, list[KernelUse | LayerShape]],
        layers: Sequence[keras.Layer],
        products: Sequence[Product],
        rule: str,
    ) -> None:
        """Adds products with weights that no layer with a rule has computed."""
        # Products of recurrent layers without a loop, and with LoRA's factors, belong to a kernel that is counted.
        known = {id(v) for layer in layers if hasattr(layer, "cell") for v in layer.weights}
        known |= {id(v) for layer in layers for v in layer.weights if v.name.startswith("lora_")}
        left = {key: len(uses) for key, uses in by_owner.items()}
        for product in products:
            counted = [id(variable) for variable in product.variables if left.get(id(variable), 0) > 0]
            for key in counted:
                left[key] -= 1
            if counted or any(id(variable) in known for variable in product.variables):
                continue
            if product.applications is None or rule != "honest":
                names = ", ".join(variable.path for variable in product.variables)
                raise InputError(
                    f"Cannot count the product with {names}: only Keras' own layers, and matrix products with a weight "
                    f"as it is, have a counting rule ({rule!r})."
                )
            owner, use = product_use(product)
            by_owner.setdefault(id(owner), []).append(use)

    def costs(self, masks: Mapping[str, int | None] | None = None) -> list[LayerCost]:
        """Cost of every layer for one example.

        Args:
          masks: number of active weights by the path of the kernel variable; None, or no entry,
            for a dense kernel.

        Returns:
          One entry per kernel (and per activation layer, by the rule "honest") in order of first
          use. A shared layer has its size counted once and its FLOPs at every call.

        Raises:
          ValueError: if the masks do not fit the kernels.

        Warns:
          UserWarning: if a masked kernel has LoRA, which makes it dense.
        """
        masks = masks or {}
        names = [uses[0].name for uses in self._uses]
        unclear = [name for name in masks if names.count(name) != 1]
        if unclear:
            raise InputError(
                f"Masks name {', '.join(unclear)}, but each must name exactly one of the kernels "
                f"that the model uses: {', '.join(names)}."
            )
        dense = [name for name in self._adapted if masks.get(name) is not None]
        lora.warn_of_lora(dense, stacklevel=2)
        return [_cost(uses, None if uses[0].name in dense else masks.get(uses[0].name)) for uses in self._uses]


def layer_costs(
    model: keras.Model,
    masks: Mapping[str, int | None] | None = None,
    rule: str = "honest",
    input_shape: Shape | None = None,
) -> list[LayerCost]:
    """Cost of every layer for one example, counted once; see `CostModel` for the rules.

    Args:
      model: a built model.
      masks: number of active weights by the path of the kernel variable; None for dense.
      rule: "honest" or "micronet".
      input_shape: as for `CostModel`.

    Returns:
      As `CostModel.costs`.

    Raises:
      ValueError: as `CostModel` and `CostModel.costs`.

    Examples:
      >>> import keras
      >>> from sparse_lib import counting
      >>> dense = keras.layers.Dense(10)
      >>> model = keras.Sequential([keras.Input((4,)), dense])
      >>> counting.inference_flops(counting.layer_costs(model))  # 40 multiplications and 40 additions
      80
      >>> counting.inference_flops(counting.layer_costs(model, {dense.kernel.path: 10}))
      20
    """
    return CostModel(model, rule, input_shape).costs(masks)


def inference_flops(costs: Sequence[LayerCost]) -> int:
    """FLOPs of one forward pass of one example.

    Args:
      costs: as from `layer_costs`.

    Returns:
      Multiplications and additions in total.
    """
    return sum(cost.inference_flops for cost in costs)


def size_bytes(costs: Sequence[LayerCost]) -> int:
    """Size of the weights, masks and biases.

    Args:
      costs: as from `layer_costs`.

    Returns:
      Bytes, rounded up.
    """
    return -(-sum(cost.bits for cost in costs) // 8)


def _cost(uses: Sequence[KernelUse | LayerShape], nnz: int | None) -> LayerCost:
    """Sums the uses of one kernel."""
    kernel = uses[0]
    if nnz is None:
        nnz = getattr(kernel, "stored", None) or kernel.size
    nnz = int(nnz)
    if not 0 <= nnz <= kernel.size:
        raise InputError(
            f"{kernel.name} has {kernel.size} weights, so its number of active weights must be "
            f"from 0 to {kernel.size}, got {nnz}."
        )
    return LayerCost(
        name=kernel.name,
        kernel_size=kernel.size,
        nnz=nnz,
        bias=kernel.bias,
        inference_flops=int(sum(use.flops(nnz) for use in uses)),
        dense_inference_flops=int(sum(use.flops(kernel.size) for use in uses)),
        bits=int(kernel.bits(nnz)),
        dense_bits=int(kernel.bits(kernel.size)),
    )
