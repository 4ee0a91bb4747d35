"""FLOPs and sizes published with the RigL paper and its code."""

from typing import NamedTuple

DENSE = "dense"


class Cost(NamedTuple):
    """A published row about RigL.

    Attributes:
      distribution: `erk`, `uniform` or `dense`.
      sparsity: overall (fraction).
      length: training length (multiple of the standard one).
      training: training FLOPs relative to dense; absolute in the dense row.
      inference: inference FLOPs per example relative to dense; absolute in the dense row.
      megabytes: size of weights, masks and biases (10^6 bytes).
      oddity: why the published numbers differ from the rule.
    """

    distribution: str
    sparsity: float
    length: float
    training: float
    inference: float
    megabytes: float
    oddity: str = ""


_PLAIN_ER = "size is that of plain Erdos-Renyi over all layers, not of uniform masks"
_FIRST_DENSE = "size is that of a dense first layer, FLOPs are of a sparse one"
_REPEATED = "training repeats inference"

# README of google-research/rigl, tables "Extended Training Results" and "1x Training Results".
RESNET50 = (
    Cost(DENSE, 0.0, 1, 3.2e18, 8.2e9, 102.122),
    Cost("erk", 0.8, 5, 2.09, 0.42, 23.683),
    Cost("uniform", 0.8, 5, 1.14, 0.23, 23.685, _PLAIN_ER),
    Cost("erk", 0.9, 5, 1.23, 0.24, 13.499),
    Cost("uniform", 0.9, 5, 0.66, 0.13, 13.532),
    Cost("erk", 0.95, 5, 0.63, 0.12, 8.399),
    Cost("uniform", 0.95, 5, 0.42, 0.08, 8.433),
    Cost("erk", 0.965, 5, 0.45, 0.09, 6.904, _FIRST_DENSE),
    Cost("uniform", 0.965, 5, 0.34, 0.07, 6.904),
    Cost("erk", 0.99, 5, 0.29, 0.05, 4.354),
    Cost("erk", 0.99, 10, 0.58, 0.05, 4.354),
    Cost("erk", 0.99, 40, 2.32, 0.05, 4.354),
    Cost("erk", 0.99, 100, 5.8, 0.05, 4.354),
    Cost("erk", 0.8, 1, 0.42, 0.42, 23.683),
    Cost("uniform", 0.8, 1, 0.23, 0.23, 23.685, _PLAIN_ER),
    Cost("erk", 0.9, 1, 0.24, 0.24, 13.499, _REPEATED),
    Cost("uniform", 0.9, 1, 0.13, 0.13, 13.532),
)
_NO_RULE = "FLOPs follow from no rule"
# The same README, which calls the sparsity 0.89, counting the layers that stay dense.
MOBILENET_V1 = (
    Cost(DENSE, 0.0, 1, 4.5e17, 1.14e9, 16.864),
    Cost("erk", 0.9, 10, 1.39, 0.21, 2.392, _NO_RULE),
    Cost("erk", 0.9, 50, 2.79, 0.21, 2.392, _NO_RULE),
    Cost("uniform", 0.9, 10, 1.25, 0.09, 2.392, f"{_NO_RULE}; size is that of ERK masks"),
    Cost("uniform", 0.9, 50, 6.25, 0.09, 2.392, f"{_NO_RULE}; size is that of ERK masks"),
    Cost("uniform", 0.9, 100, 12.5, 0.09, 2.392, f"{_NO_RULE}; size is that of ERK masks"),
)

# FLOPs (10^6) and size (10^6 bytes) by distribution and sparsity, as the notebook MobileNet_Counting of that code base
# prints them: https://github.com/google-research/rigl, rigl/imagenet_resnet/colabs.
MOBILENET_NOTEBOOK = {
    ("dense", 0.0): (1141.544, 16.864),
    ("erk", 0.75): (599.144, 4.888),
    ("uniform", 0.75): (330.769, 4.894),
    ("erk", 0.85): (439.152, 3.224),
    ("uniform", 0.85): (222.666, 3.229),
    ("erk", 0.9): (334.134, 2.392),
    ("uniform", 0.9): (168.614, 2.396),
    ("erk", 0.95): (205.281, 1.560),
    ("uniform", 0.95): (114.563, 1.563),
}


class Width(NamedTuple):
    """A width multiplier of the notebooks.

    Attributes:
      sparsity: sparsity of the network of equal size (below 1) or of the scaled network (above 1) (fraction).
      width: below 1 for a small dense network as large as the sparse one, above 1 for a sparse network as large as the
        dense one.
    """

    sparsity: float
    width: float


RESNET50_WIDTHS = (
    *(Width(0.8, 0.465), Width(0.9, 0.34), Width(0.95, 0.26), Width(0.965, 0.231)),
    *(Width(0.8, 2.1), Width(0.9, 2.8)),
)
MOBILENET_WIDTHS = (
    *(Width(0.75, 0.47), Width(0.85, 0.353), Width(0.9, 0.285), Width(0.95, 0.204)),
    *(Width(0.75, 1.98), Width(0.85, 2.52), Width(0.9, 3.0), Width(0.95, 3.98)),
)


class Method(NamedTuple):
    """A row of figure 2 of the paper, about ResNet-50.

    Attributes:
      method: name in lower case.
      distribution: distribution of the masks.
      sparsity: overall (fraction).
      length: training length (multiple of the standard one).
      training: training FLOPs relative to dense.
      inference: inference FLOPs relative to dense.
      oddity: why the published numbers differ from the rule.
    """

    method: str
    distribution: str
    sparsity: float
    length: float
    training: float
    inference: float
    oddity: str = ""


_ALL_SPARSE = "the first layer counts as sparse, where at 80% it counts as dense"
_NARROWER = "a width of 0.444 has these FLOPs, the notebook settles on 0.465"
METHODS = (
    Method("static", "uniform", 0.8, 1, 0.23, 0.23),
    Method("snip", "uniform", 0.8, 1, 0.23, 0.23),
    Method("set", "uniform", 0.8, 1, 0.23, 0.23),
    Method("rigl", "uniform", 0.8, 1, 0.23, 0.23),
    Method("rigl", "uniform", 0.8, 5, 1.14, 0.23),
    Method("small dense", "uniform", 0.8, 1, 0.20, 0.20, _NARROWER),
    Method("small dense", "uniform", 0.8, 5, 1.01, 0.20, _NARROWER),
    Method("static", "erk", 0.8, 1, 0.42, 0.42),
    Method("rigl", "erk", 0.8, 1, 0.42, 0.42),
    Method("rigl", "erk", 0.8, 5, 2.09, 0.42),
    Method("snfs", "erk", 0.8, 1, 0.61, 0.42),
    Method("pruning", "uniform", 0.8, 1, 0.56, 0.23),
    Method("pruning", "uniform", 0.8, 1.5, 0.84, 0.23),
    Method("static", "uniform", 0.9, 1, 0.10, 0.10, _ALL_SPARSE),
    Method("snip", "uniform", 0.9, 1, 0.10, 0.10, _ALL_SPARSE),
    Method("set", "uniform", 0.9, 1, 0.10, 0.10, _ALL_SPARSE),
    Method("rigl", "uniform", 0.9, 1, 0.10, 0.10, _ALL_SPARSE),
    Method("rigl", "uniform", 0.9, 5, 0.52, 0.10, _ALL_SPARSE),
    Method("small dense", "uniform", 0.9, 1, 0.12, 0.12),
    Method("small dense", "uniform", 0.9, 5, 0.60, 0.12),
    Method("static", "erk", 0.9, 1, 0.24, 0.24),
    Method("rigl", "erk", 0.9, 1, 0.25, 0.24),
    Method("rigl", "erk", 0.9, 5, 1.23, 0.24),
    Method("snfs", "erk", 0.9, 1, 0.50, 0.24),
    Method("pruning", "uniform", 0.9, 1, 0.51, 0.10, f"in inference {_ALL_SPARSE}"),
    Method("pruning", "uniform", 0.9, 1.5, 0.76, 0.10, f"in inference {_ALL_SPARSE}"),
)
