"""What `network.*` says: which network, and where its weights come from."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from sparse_lib import api, initializers
from sparse_lib.experiment.networks import NETWORKS, Network, Style
from sparse_lib.experiment.settings import Settings

MaskInit = Callable[..., tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaInitSettings(Settings, name="metainit"):
    """MetaInit, where training.use_metainit; see `sparse_lib.metainit` for the meaning."""

    steps: int = 1000
    learning_rate: float = 1e-3
    momentum: float = 0.9
    batch_size: int = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitScaledSettings(Settings, name="unit_scaled_init"):
    """The gradient-flow paper's initialisation; see `sparse_lib.initializers.unit_scaled`.

    Attributes:
      method: fan and distribution, such as `fanin_normal`.
      scale: numerator of the variance; 1 with `fanavg_uniform` is Glorot's, 2 with `fanin_normal` is He's.
      init_method: another name of `method`; it wins. The README of rigl_tf2 binds it, to `faninout_uniform`, which is
        `fanavg_uniform`.
    """

    method: str = "fanavg_uniform"
    scale: float = 1.0
    init_method: str | None = None

    def __call__(self, mask: tf.Tensor, **draw: Any) -> tf.Tensor:
        """Draws a kernel for a mask; see the function for `seed`, `inputs` and `outputs`."""
        method = (self.init_method or self.method).replace("faninout_", "fanavg_")
        return initializers.unit_scaled(mask, method=method, scale=self.scale, **draw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerScaledSettings(Settings, name="layer_scaled_init"):
    """The initialisation of Liu et al.; see `sparse_lib.initializers.layer_scaled`."""

    method: str = "fanavg_uniform"
    scale: float = 1.0

    def __call__(self, mask: tf.Tensor, **draw: Any) -> tf.Tensor:
        """Draws a kernel for a mask; see the function for `seed`, `inputs` and `outputs`."""
        return initializers.layer_scaled(mask, method=self.method, scale=self.scale, **draw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings, name="network"):
    """The network, and the checkpoints of its masks and weights.

    Attributes:
      network_name: `lenet5`, `mlp`, `wide_resnet`, `resnet`, `vgg16`, `mobilenet`, `vit`, `gru` or `keras_model`; its
        sizes are set by parameters of that name, such as `resnet.depth`.
      activation: of the hidden layers.
      mask_init_path: checkpoint whose masks to take.
      shuffle_mask: whether to shuffle those masks within each layer.
      weight_init_path: checkpoint whose weights to take, of any step (rewinding); a checkpoint of the published code
        of the RigL paper; or weights of a Keras model with the same layers in the same order, `.weights.h5`.
      weight_init_method: `unit_scaled`, `layer_scaled`, or None for the dense initialisation.
      weight_decay: L2 coefficient: weight_decay * sum(w^2) of every kernel joins the loss.
      noise_stddev: of normal noise added to the initial weights.
      sync_batch_norm: whether batch normalisation takes the statistics of the batches of all replicas together, as one
        device would; else each replica takes its own.
      compute_dtype: of activations and gradients; with `bfloat16` weights, optimizer state and loss
        stay float32, and Hessians are computed in the precision that they ask for.
      pruned_layer_types: names of the layer classes that are sparse, such as ("Conv2D", "Dense"); None means every
        layer with a weight matrix.
    """

    network_name: str = "lenet5"
    activation: str = "relu"
    mask_init_path: str | None = None
    shuffle_mask: bool = False
    weight_init_path: str | None = None
    weight_init_method: Literal["unit_scaled", "layer_scaled"] | None = None
    weight_decay: float = 0.0
    noise_stddev: float = 0.0
    sync_batch_norm: bool = False
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    pruned_layer_types: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Checks the names, and that no setting would be ignored.

        Raises:
          SettingError: for an unknown network, masks to shuffle that are not given, or two sources of weights.
        """
        super().__post_init__()
        known = f"is not known; use one of {', '.join(NETWORKS)}"
        self.require(self.network_name in NETWORKS, "network_name", known)
        has_masks = not self.shuffle_mask or bool(self.mask_init_path)
        self.require(has_masks, "shuffle_mask", "shuffles the masks of network.mask_init_path; set that too")
        one_source = not (self.weight_init_path and self.weight_init_method)
        self.require(
            one_source, "weight_init_method", "would overwrite network.weight_init_path; leave one of them out"
        )

    def build(self, input_shape: Sequence[int], num_classes: int, seed: int, sizes: Network) -> keras.Model:
        """Builds the network with its dense initial weights.

        Args:
          input_shape: height, width, channels (pixels).
          num_classes: number of logits (count).
          seed: of the initial weights.
          sizes: of the network that is named.

        Returns:
          The network.
        """
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
        """The sparse kernels of a network.

        Args:
          model: the network.

        Returns:
          Name to variable.

        Raises:
          SettingError: if no layer of the network is of a type that is named.
        """
        wanted = self.pruned_layer_types

        def include(layer: keras.Layer, variable: keras.Variable) -> bool:
            named = wanted is None or type(layer).__name__ in wanted
            return named and api.is_weight_matrix(layer, variable)

        kernels = api.sparse_kernels(model, include)
        self.require(bool(kernels), "pruned_layer_types", f"names no layer with a weight matrix of {model.name}")
        return kernels
