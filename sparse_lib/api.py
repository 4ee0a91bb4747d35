"""The three-line entrance: sparse kernels of any Keras model."""

from collections.abc import Callable, Iterator, Mapping

import keras
import tensorflow as tf

from sparse_lib import distributions
from sparse_lib.masks import Masks, random_masks

_DENSE_LAYERS = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D, keras.layers.Embedding)
KernelFilter = Callable[[keras.Layer, keras.Variable], bool]


def is_weight_matrix(layer: keras.Layer, variable: keras.Variable) -> bool:
    """The default choice of sparse kernels: all but biases, norms, embeddings and depthwise kernels.

    Args:
      layer: the layer that owns the variable.
      variable: one of its trainable variables.

    Returns:
      Whether the variable is a weight matrix that is made sparse by default.
    """
    named = variable.name.endswith("kernel") and variable.name != "depthwise_kernel"
    return named and len(variable.shape) >= 2 and not isinstance(layer, _DENSE_LAYERS)


def _own_variables(model: keras.Model) -> Iterator[tuple[keras.Layer, keras.Variable]]:
    """Every trainable variable once, with the innermost layer that owns it."""
    seen: set[int] = set()
    for layer in model._flatten_layers():
        children = list(layer._flatten_layers(include_self=False))
        inner = {id(v) for child in children for v in child.trainable_variables}
        for variable in layer.trainable_variables:
            if id(variable) not in inner | seen:
                seen.add(id(variable))
                yield layer, variable


def sparse_kernels(model: keras.Model, include: KernelFilter = is_weight_matrix) -> dict[str, keras.Variable]:
    """The kernels of a built model that masks belong to, in the order of `model.trainable_variables`.

    Args:
      model: any built Keras model: functional, sequential or subclassed, nested or with shared layers.
      include: decides for a layer and one of its trainable variables.

    Returns:
      Name, such as `conv1/kernel`, to variable; names that would repeat are full paths, numbered if need be.

    Raises:
      ValueError: if the model is not built.
    """
    if not model.built or not model.weights:
        raise ValueError(f"Model {model.name} has no weights yet: call it once on a batch, or build it, first.")
    chosen = {id(v): layer for layer, v in _own_variables(model) if include(layer, v)}
    ordered = [v for v in model.trainable_variables if id(v) in chosen]
    short = [f"{chosen[id(v)].name}/{v.name}" for v in ordered]
    names = [name if short.count(name) == 1 else v.path for name, v in zip(short, ordered, strict=True)]
    # Layers of one name in one place have one path, too.
    earlier = [names[:i].count(name) for i, name in enumerate(names)]
    return {f"{n}_{e}" if e else n: v for n, e, v in zip(names, earlier, ordered, strict=True)}


def sparsify(
    model: keras.Model,
    sparsity: float = 0.9,
    distribution: str = "erk",
    *,
    custom: Mapping[str, float] | None = None,
    power_scale: float = 1.0,
    first_layer_dense: bool = False,
    include: KernelFilter = is_weight_matrix,
    seed: int = 0,
) -> Masks:
    """Puts random masks on the kernels of a model and zeroes what they leave out.

    Args:
      model: a built Keras model; it stays a plain Keras model.
      sparsity: share of the kernels' weights that are zero (fraction, 0 to below 1); 0.9 as in the RigL paper's
        main table, section 4.
      distribution: `erk` (RigL paper, section 3), `er`, `uniform` or `str`.
      custom: sparsity of named kernels, by name or by name of the layer (fraction); 0 leaves one dense.
      power_scale: exponent of the ERK ratio; 1 in the RigL paper.
      first_layer_dense: whether `uniform` leaves the first kernel dense, as in the RigL paper's tables.
      include: decides which kernels are sparse.
      seed: seed of the masks.

    Returns:
      The masks, to be given to `SparseOptimizer`.

    Raises:
      ValueError: if the model is not built or has no kernel to be made sparse, or for sparsities that cannot be.
    """
    kernels = sparse_kernels(model, include)
    if not kernels:
        raise ValueError(f"No trainable kernel of {model.name} was chosen; pass include= to say which to make sparse.")
    shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
    counts = distributions.nnz(
        shapes,
        sparsity,
        distribution=distribution,
        custom=distributions.custom_by_kernel(shapes, custom),
        power_scale=power_scale,
        first_layer_dense=first_layer_dense,
    )
    values = random_masks(list(shapes.values()), [counts[name] for name in shapes], seed)
    return Masks(list(kernels.values()), [tf.constant(v) for v in values], list(kernels))
