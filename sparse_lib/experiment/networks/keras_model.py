"""Any classifier that Keras has saved, with its weights."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import keras

from sparse_lib import api
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.networks.base import Network
from sparse_lib.experiment.networks.common import Style
from sparse_lib.experiment.runtime.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasModel(Network, name="keras_model"):
    """A pretrained classifier saved by Keras; its layers keep their names, its variables their values.

    A softmax at the end is taken off, since networks of this suite return logits.

    Attributes:
      path: of the model, `.keras`, or `.h5` with the architecture.
    """

    input_axes: ClassVar[int | None] = None

    path: str = ""

    @property
    def label(self) -> str:
        """Name of the network in reports."""
        return "keras_model"

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Loads the network and puts the regularizer of the style on every kernel; activation and seed are ignored."""
        path = pathlib.Path(self.path)
        if not path.is_file():
            raise InputError(f"There is no file '{path}': set keras_model.path to a model saved as .keras.")
        try:
            model = keras.saving.load_model(path, compile=False)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0].rstrip(". ")
            raise InputError(
                f"Cannot load '{path}' ({reason}): save a whole model, model.save('NAME.keras')."
            ) from error
        shapes = _shape(model.input_shape), _shape(model.output_shape)
        wanted = tuple(input_shape), (num_classes,)
        if shapes != wanted:
            raise InputError(
                f"The model '{path}' maps {list(shapes[0])} to {list(shapes[1])}, and the data set {list(wanted[0])} "
                f"to {list(wanted[1])}: save it with that input shape and that number of classes."
            )
        last = model.layers[-1]
        if getattr(last, "activation", None) is keras.activations.softmax:
            last.activation = keras.activations.linear
        for kernel in api.sparse_kernels(model).values():
            kernel.regularizer = style.regularizer()
        return model

    def scale_width(self, width: float) -> Self:
        """Refuses: the widths of a saved network are fixed."""
        del width
        raise SettingError("network.network_name='keras_model' has no widths to scale; choose a network of the suite.")


def _shape(batch_shape: Any) -> tuple[int | None, ...]:
    """The shape without the batch; empty for networks of several inputs or outputs."""
    return tuple(batch_shape[1:]) if all(size is None or isinstance(size, int) for size in batch_shape) else ()
