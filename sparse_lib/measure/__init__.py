"""The suite's measurements for any model and data, one call each.

`data` is a tuple (x, y) of arrays or structures of arrays, a finite `tf.data.Dataset` of batches, a
`keras.utils.PyDataset`, a list or other iterable of batches, or `sparse_lib.batches.Batches`. `loss` is a Keras loss,
of any reduction, or a function (y_true, outputs) -> one loss per example or token, which are averaged as in training;
None means cross-entropy of integer labels and logits. `masks` are those of the model's sparse kernels; None means that
all weights are active. `batch_size` is the number of examples per pass, which bounds the memory and does not change the
result. No measurement changes the model: its weights, batch-norm averages, seeds and masks stay as they are.
"""

from sparse_lib.measure.flow import GradientFlow, GradientFlowMeter, gradient_flow
from sparse_lib.measure.inference import Cost, cost
from sparse_lib.measure.logger import GradientFlowLogger
from sparse_lib.measure.path import Path, interpolation
from sparse_lib.measure.problem import Loss
from sparse_lib.measure.spectrum import spectral_density, top_eigenvalues, trace

__all__ = [
    "Cost",
    "GradientFlow",
    "GradientFlowLogger",
    "GradientFlowMeter",
    "Loss",
    "Path",
    "cost",
    "gradient_flow",
    "interpolation",
    "spectral_density",
    "top_eigenvalues",
    "trace",
]
