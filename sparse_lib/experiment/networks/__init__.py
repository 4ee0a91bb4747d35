"""Networks of the experiments; every layer is named, so that checkpoints do not depend on what else was built."""

from sparse_lib.experiment.networks.gru import gru
from sparse_lib.experiment.networks.keras_model import keras_model
from sparse_lib.experiment.networks.lenet5 import lenet5
from sparse_lib.experiment.networks.mlp import mlp
from sparse_lib.experiment.networks.mobilenet import mobilenet
from sparse_lib.experiment.networks.resnet import resnet
from sparse_lib.experiment.networks.vgg import vgg16
from sparse_lib.experiment.networks.vit import vit
from sparse_lib.experiment.networks.wide_resnet import wide_resnet

__all__ = ["gru", "keras_model", "lenet5", "mlp", "mobilenet", "resnet", "vgg16", "vit", "wide_resnet"]
