"""Networks of the experiments; every layer is named, so that checkpoints do not depend on what else was built.

`NETWORKS` is the one list of them: gin name -> class.
"""

from sparse_lib.experiment.networks.base import Network
from sparse_lib.experiment.networks.bidirectional_gru import BidirectionalGRU
from sparse_lib.experiment.networks.common import Style
from sparse_lib.experiment.networks.conv_n import ConvN
from sparse_lib.experiment.networks.convnet1d import ConvNet1D
from sparse_lib.experiment.networks.gru import GRU
from sparse_lib.experiment.networks.keras_model import KerasModel
from sparse_lib.experiment.networks.lenet5 import LeNet5
from sparse_lib.experiment.networks.mlp import MLP
from sparse_lib.experiment.networks.mobilenet import MobileNet
from sparse_lib.experiment.networks.resnet import ResNet
from sparse_lib.experiment.networks.vgg import VGG11, VGG16, VGG19
from sparse_lib.experiment.networks.vit import ViT
from sparse_lib.experiment.networks.wide_resnet import WideResNet

NETWORKS: dict[str, type[Network]] = {
    kind.config_name: kind
    for kind in (
        *(LeNet5, MLP, ConvN, WideResNet, ResNet, VGG11, VGG16, VGG19, MobileNet, ViT),
        *(GRU, ConvNet1D, BidirectionalGRU, KerasModel),
    )
}

__all__ = [
    "GRU",
    "MLP",
    "NETWORKS",
    "VGG11",
    "VGG16",
    "VGG19",
    "BidirectionalGRU",
    "ConvN",
    "ConvNet1D",
    "KerasModel",
    "LeNet5",
    "MobileNet",
    "Network",
    "ResNet",
    "Style",
    "ViT",
    "WideResNet",
]
