"""What `network.*` and the initialisers configure: the network, and the sources of its masks and weights."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from sparse_lib import api, initializers, signs
from sparse_lib._utils.did_you_mean import closest_names, suggest
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.networks import NETWORKS, Network, Style
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.settings import BatchSize, NonNegative, Positive, Settings, Share, Size, Step

MaskInit = Callable[..., tf.Tensor]
Distribution = Literal[
    "fanin_normal", "fanin_uniform", "fanout_normal", "fanout_uniform", "fanavg_normal", "fanavg_uniform"
]
# Aliases in rigl_tf2.
_Alias = Literal["faninout_normal", "faninout_uniform"]
_ACTIVATIONS = sorted(
    name
    for name, function in vars(keras.activations).items()
    if callable(function) and name not in ("get", "serialize", "deserialize")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaInitSettings(Settings, name="metainit"):
    """MetaInit, used if training.use_metainit; see `sparse_lib.metainit`."""

    steps: Size = 1000
    learning_rate: Positive = 1e-3
    momentum: Share = 0.9
    batch_size: BatchSize = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitScaledSettings(Settings, name="unit_scaled_init"):
    """The gradient-flow paper's initialisation; see `sparse_lib.initializers.unit_scaled`.

    Attributes:
      method: fan and distribution, such as `fanin_normal`.
      scale: numerator of the variance; 1 with `fanavg_uniform` is Glorot's, 2 with `fanin_normal` is He's.
      init_method: alias of `method`, which wins. The README of rigl_tf2 binds it to `faninout_uniform`, an alias of
        `fanavg_uniform`.
    """

    method: Distribution | _Alias = "fanavg_uniform"
    scale: Positive = 1.0
    init_method: Distribution | _Alias | None = None

    def __call__(self, mask: tf.Tensor, **draw: Any) -> tf.Tensor:
        """Draws a kernel for a mask; `draw` are `seed`, `inputs` and `outputs` of the function."""
        method = (self.init_method or self.method).replace("faninout_", "fanavg_")
        return initializers.unit_scaled(mask, method=method, scale=self.scale, **draw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerScaledSettings(Settings, name="layer_scaled_init"):
    """The initialisation of Liu et al.; see `sparse_lib.initializers.layer_scaled`."""

    method: Distribution = "fanavg_uniform"
    scale: Positive = 1.0

    def __call__(self, mask: tf.Tensor, **draw: Any) -> tf.Tensor:
        """Draws a kernel for a mask; `draw` are `seed`, `inputs` and `outputs` of the function."""
        return initializers.layer_scaled(mask, method=self.method, scale=self.scale, **draw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings, name="network"):
    """The network, and the checkpoints that its masks and weights are read from.

    Attributes:
      network_name: `lenet5`, `mlp`, `conv_n`, `wide_resnet`, `resnet`, `vgg11`, `vgg16`, `vgg19`, `mobilenet`, `vit`,
        `gru`, `convnet1d`, `bidirectional_gru` or `keras_model`; its sizes are parameters under that name, such as
        `resnet.depth`.
      activation: of the hidden layers.
      mask_init_path: checkpoint that the masks are read from.
      shuffle_mask: whether to shuffle those masks within each layer.
      invert_mask: whether to take the complement of those masks.
      weight_init_path: checkpoint that the weights are read from, of any step (rewinding); a checkpoint of the
        published code of the RigL paper; or weights of a Keras model with the same layers in the same order,
        `.weights.h5`.
      weight_init_method: `unit_scaled`, `layer_scaled`, or None for the dense initialisation.
      weight_init_signs: what happens to signs and magnitudes of the active initial weights: `constant` keeps the signs
        and gives the weights of a layer one magnitude, `random` draws the signs, `flip:0.1` negates a tenth of the
        weights; None changes nothing. See `sparse_lib.signs`.
      weight_decay: L2 coefficient: weight_decay * sum(w^2) of every kernel is added to the loss.
      weight_decay_warmup: steps over which the L2 coefficient rises linearly from 0 (step).
      noise_stddev: standard deviation of normal noise added to the initial weights.
      sync_batch_norm: whether batch normalisation uses the statistics over all replicas, as one device would; else each
        replica uses its own.
      compute_dtype: of activations and gradients; with `bfloat16` weights, optimizer state and loss stay float32, and
        Hessians are computed in hessian.dtype.
      pruned_layer_types: class names of the sparse layers, such as ("Conv2D", "Dense"); None means every layer with a
        weight matrix.
    """

    network_name: str = "lenet5"
    activation: str = "relu"
    mask_init_path: str | None = None
    shuffle_mask: bool = False
    invert_mask: bool = False
    weight_init_path: str | None = None
    weight_init_method: Literal["unit_scaled", "layer_scaled"] | None = None
    weight_init_signs: str | None = None
    weight_decay: NonNegative = 0.0
    weight_decay_warmup: Step = 0
    noise_stddev: NonNegative = 0.0
    sync_batch_norm: bool = False
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    pruned_layer_types: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Checks the name of the network, and that no setting would be ignored.

        Raises:
          SettingError: for an unknown network, activation or change of signs, a shuffle without masks, a warm-up
            without weight decay, or two sources of weights.
        """
        super().__post_init__()
        known = f"is not known; use one of {', '.join(NETWORKS)}{suggest(self.network_name, NETWORKS)}"
        self.require(self.network_name in NETWORKS, "network_name", known)
        known = f"is not known; use one of {closest_names(self.activation, _ACTIVATIONS)}"
        self.require(_is_activation(self.activation), "activation", known)
        for name, verb in (("shuffle_mask", "shuffles"), ("invert_mask", "inverts")):
            has_masks = not getattr(self, name) or bool(self.mask_init_path)
            self.require(has_masks, name, f"{verb} the masks of network.mask_init_path; set that too")
        if self.weight_init_signs is not None:
            try:
                signs.parse_change(self.weight_init_signs)
            except InputError as error:
                raise SettingError(f"network.weight_init_signs: {error}") from error
        decays = bool(self.weight_decay) or not self.weight_decay_warmup
        self.require(decays, "weight_decay_warmup", "warms up network.weight_decay; set that too")
        one_source = not (self.weight_init_path and self.weight_init_method)
        self.require(
            one_source, "weight_init_method", "would overwrite network.weight_init_path; leave one of them out"
        )

    def build(self, input_shape: Sequence[int], num_classes: int, seed: int, sizes: Network) -> keras.Model:
        """Builds the network with its dense initial weights.

        Args:
          input_shape: height, width, channels (pixels), or length and channels.
          num_classes: number of logits (count).
          seed: of the initial weights.
          sizes: of that network.

        Returns:
          The network.

        Raises:
          InputError: if there is no such network for these examples.
        """
        sizes.check_input(input_shape)
        style = Style(
            activation=self.activation,
            weight_decay=self.weight_decay,
            sync_batch_norm=self.sync_batch_norm,
            seed=seed,
        )
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16" if self.compute_dtype == "bfloat16" else "float32")
        try:
            return sizes.build(input_shape, num_classes, style)
        finally:
            keras.config.set_dtype_policy(policy)

    def kernels(self, model: keras.Model) -> dict[str, keras.Variable]:
        """Sparse kernels of a network.

        Args:
          model: the network.

        Returns:
          Variable by name.

        Raises:
          SettingError: if the network has no layer of the types in `pruned_layer_types`.
        """
        wanted = self.pruned_layer_types

        def include(layer: keras.Layer, variable: keras.Variable) -> bool:
            named = wanted is None or type(layer).__name__ in wanted
            return named and api.is_weight_matrix(layer, variable)

        kernels = api.sparse_kernels(model, include)
        self.require(bool(kernels), "pruned_layer_types", f"names no layer with a weight matrix of {model.name}")
        return kernels


def _is_activation(name: str) -> bool:
    try:
        return callable(keras.activations.get(name))
    except (ValueError, TypeError):
        return False
