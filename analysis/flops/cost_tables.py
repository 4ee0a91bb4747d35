"""Tables of FLOPs and sizes: those published with the RigL paper and its code, and those of any network."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import pandas as pd

from analysis.flops import published_costs as published
from sparse_lib import api, counting, distributions, schedules, updaters
from sparse_lib.counting import micronet
from sparse_lib.experiment.networks import MobileNet, ResNet, Style

# Published runs (RigL paper, section 4.1), and the pruning schedule that they are compared with.
_STEPS, _BATCH, _UPDATE_FREQ = 32_000, 4096, 100
_PRUNING_BEGIN, _PRUNING_END, _SAMPLED_EVERY = 10_000, 25_000, 1000
_IMAGE, _CLASSES = (224, 224, 3), 1000
# Updater of each method of appendix H with masks of constant size.
_STEADY: dict[str, type[updaters.Updater]] = {
    **dict.fromkeys(("dense", "static", "snip"), updaters.Static),
    "set": updaters.SET,
    "snfs": updaters.SNFS,
    "rigl": updaters.RigL,
}


class _Size(NamedTuple):
    """FLOPs per example, and size in 10^6 bytes."""

    flops: float
    megabytes: float


class _Network(NamedTuple):
    """A network as a layer list of the published rule, and as a Keras model."""

    layers: Sequence[micronet.LayerShape]
    model: keras.Model
    counter: counting.CostModel

    def count_published(
        self, distribution: str, sparsity: float, dense: Sequence[str] = (), width: float = 1.0
    ) -> micronet.Totals:
        """Counts by the published rule; the published ERK tables round numbers of zeros up."""
        if distribution == published.DENSE:
            return micronet.totals(self.layers, width=width)
        shapes = {layer.name: layer.kernel for layer in self.layers}
        custom = dict.fromkeys(dense, 0.0)
        found = distributions.sparsities(shapes, sparsity, distribution=distribution, custom=custom, rounding="ceil")
        return micronet.totals(self.layers, found, width)

    def count_honest(self, distribution: str, sparsity: float, dense: Sequence[str] = ()) -> _Size:
        """Counts by the honest rule, with whole weights."""
        kernels = api.sparse_kernels(self.model)
        shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
        counts = {}
        if distribution != published.DENSE:
            custom = {"stem/kernel": 0.0} if "conv1" in dense else {}
            counts = distributions.nnz(shapes, sparsity, distribution=distribution, custom=custom)
        costs = self.counter.costs({kernels[name].path: n for name, n in counts.items()})
        return _Size(counting.inference_flops(costs), counting.size_bytes(costs) / 1e6)


@functools.cache
def build_network(name: str) -> _Network:
    """Builds ResNet-50 or MobileNet-v1 without values of its weights."""
    with keras.StatelessScope():
        if name == "resnet50":
            layers, model = micronet.resnet50(), ResNet().build(_IMAGE, _CLASSES, Style())
        else:
            layers, model = micronet.mobilenet_v1(), MobileNet().build(_IMAGE, _CLASSES, Style())
        return _Network(layers, model, counting.CostModel(model))


def _dense_layers(name: str, distribution: str, sparsity: float) -> list[str]:
    """Returns the layers that are dense according to the README."""
    if name == "mobilenet_v1":
        depthwise = [layer.name for layer in build_network(name).layers if layer.name.startswith("depthwise")]
        return depthwise if distribution == "erk" else ["conv1", *depthwise]
    return ["conv1"] if distribution == "uniform" or sparsity > 0.98 else []


def readme(name: str) -> pd.DataFrame:
    """Tables of the README of google-research/rigl beside the values of both counting rules.

    Args:
      name: `resnet50` or `mobilenet_v1`.

    Returns:
      One row per published row: FLOPs of training and inference relative to the dense network (absolute for the dense
      network), and size (10^6 bytes).
    """
    network = build_network(name)
    rows = []
    for row in published.RESNET50 if name == "resnet50" else published.MOBILENET_V1:
        dense = _dense_layers(name, row.distribution, row.sparsity)
        by_rule = network.count_published(row.distribution, row.sparsity, dense)
        honest = network.count_honest(row.distribution, row.sparsity, dense)
        whole = network.count_published(published.DENSE, 0.0).flops, network.count_honest(published.DENSE, 0.0).flops
        training, inference = _relative_costs(row, by_rule.flops, whole[0])
        honest_training, honest_inference = _relative_costs(row, honest.flops, whole[1])
        rows.append(
            {
                "masks": row.distribution,
                "sparsity": row.sparsity,
                "length": row.length,
                "training": training,
                "training_readme": row.training,
                "training_honest": honest_training,
                "inference": inference,
                "inference_readme": row.inference,
                "inference_honest": honest_inference,
                "megabytes": by_rule.megabytes,
                "megabytes_readme": row.megabytes,
                "megabytes_honest": honest.megabytes,
                "oddity": row.oddity,
            }
        )
    return pd.DataFrame(rows)


def _relative_costs(row: published.Cost, flops: float, whole: float) -> tuple[float, float]:
    """Returns training and inference FLOPs of a row, relative to dense unless it is the dense row."""
    if row.distribution == published.DENSE:
        return 3 * flops * _STEPS * _BATCH, flops
    training = counting.training_flops_per_sample(updaters.RigL.weight_gradient, whole, flops, _UPDATE_FREQ)
    return row.length * training / (3 * whole), flops / whole


def notebook() -> pd.DataFrame:
    """Table of the notebook on MobileNet-v1 beside the values of the rule (10^6 FLOPs, 10^6 bytes)."""
    rows = []
    for (distribution, sparsity), (flops, megabytes) in published.MOBILENET_NOTEBOOK.items():
        dense = _dense_layers("mobilenet_v1", distribution, sparsity)
        found = build_network("mobilenet_v1").count_published(distribution, sparsity, dense)
        rows.append(
            {
                "masks": distribution,
                "sparsity": sparsity,
                "megaflops": found.flops / 1e6,
                "megaflops_notebook": flops,
                "megabytes": found.megabytes,
                "megabytes_notebook": megabytes,
            }
        )
    return pd.DataFrame(rows)


def widths() -> pd.DataFrame:
    """Width multipliers of small dense and big sparse networks: those of the notebooks, and exact ones by bisection.

    Returns:
      One row per multiplier; `size` is the size of the network of full width relative to the scaled one, `inference`
      the FLOPs of the scaled one relative to the dense network of full width.
    """
    rows = []
    for name, entries in (("resnet50", published.RESNET50_WIDTHS), ("mobilenet_v1", published.MOBILENET_WIDTHS)):
        network, dense = build_network(name), ["conv1"] if name == "mobilenet_v1" else []
        whole = network.count_published(published.DENSE, 0.0)
        for sparsity, width in entries:
            # Narrow networks are dense and as large as the sparse one, wide ones are sparse and as large as the dense.
            kind = published.DENSE if width < 1 else "erk"
            budget = network.count_published("erk", sparsity, dense).bits if width < 1 else whole.bits
            other = functools.partial(network.count_published, kind, sparsity, dense)
            nearest = counting.width_multiplier(functools.partial(_bits, other), budget)
            rows.append(
                {
                    "network": name,
                    "kind": "small dense" if width < 1 else "big sparse",
                    "sparsity": sparsity,
                    "width_notebook": width,
                    "size": budget / other(width).bits,
                    "nearest": nearest,
                    "nearest_size": budget / other(nearest).bits,
                    "inference": other(width).flops / whole.flops,
                }
            )
    return pd.DataFrame(rows)


def _bits(at_width: Callable[[float], micronet.Totals], width: float) -> float:
    return at_width(width).bits


def methods() -> pd.DataFrame:
    """Figure 2 of the RigL paper (FLOPs of ResNet-50 by method) beside the values of the rule."""
    network = build_network("resnet50")
    whole = network.count_published(published.DENSE, 0.0).flops
    rows = []
    for row in published.METHODS:
        training, inference = _cost_of_method(network, row, whole)
        rows.append(
            {
                "method": row.method,
                "masks": row.distribution,
                "sparsity": row.sparsity,
                "length": row.length,
                "training": row.length * training / (3 * whole),
                "training_paper": row.training,
                "inference": inference / whole,
                "inference_paper": row.inference,
                "oddity": row.oddity,
            }
        )
    return pd.DataFrame(rows)


def _cost_of_method(network: _Network, row: published.Method, whole: float) -> tuple[float, float]:
    """Returns FLOPs per example of training and of inference."""
    if row.method == "small dense":
        (width,) = [entry.width for entry in published.RESNET50_WIDTHS if entry[0] == row.sparsity and entry.width < 1]
        flops = network.count_published(published.DENSE, 0.0, width=width).flops
        return 3 * flops, flops

    def at(sparsity: float) -> float:
        return network.count_published(
            row.distribution, sparsity, _dense_layers("resnet50", row.distribution, sparsity)
        ).flops

    if row.method == "pruning":
        target = schedules.PolynomialSparsity(0.0, row.sparsity, _PRUNING_BEGIN, _PRUNING_END)
        steps = range(0, _STEPS + 1, _SAMPLED_EVERY)
        return counting.pruning_flops_per_sample(at, (float(target(step)) for step in steps)), at(row.sparsity)
    flops = at(row.sparsity)
    weight_gradient = _STEADY[row.method].weight_gradient
    return counting.training_flops_per_sample(weight_gradient, whole, flops, _UPDATE_FREQ), flops


def layers(model: keras.Model, active: Mapping[str, int], rule: str) -> pd.DataFrame:
    """Costs of the layers of a network, with their total.

    Args:
      model: the network.
      active: number of active weights by kernel path; other kernels are dense.
      rule: `honest` or `micronet`.

    Returns:
      One row per layer and a last one, `total`: weights, active weights, FLOPs per example, dense FLOPs, bytes.
    """
    costs = counting.layer_costs(model, active, rule)
    rows: list[dict[str, Any]] = [
        {
            "layer": cost.name,
            "weights": cost.kernel_size,
            "active": cost.nnz,
            "flops": cost.inference_flops,
            "dense_flops": cost.dense_inference_flops,
            "bytes": -(-cost.bits // 8),
        }
        for cost in costs
    ]
    total = {"layer": "total", **{name: sum(row[name] for row in rows) for name in list(rows[0])[1:]}}
    return pd.DataFrame([*rows, total])


def training(dense_flops: float, sparse_flops: float, frequency: int, pruning: float | None = None) -> pd.DataFrame:
    """Training FLOPs per example by method (RigL paper, appendix H).

    Args:
      dense_flops: inference FLOPs of the dense network.
      sparse_flops: inference FLOPs with the masks.
      frequency: steps between mask updates.
      pruning: training FLOPs of gradual pruning, from `pruning_flops`, or None.

    Returns:
      One row per method: FLOPs, and FLOPs relative to dense training.
    """
    found = {
        method: counting.training_flops_per_sample(
            updater.weight_gradient, dense_flops, dense_flops if method == "dense" else sparse_flops, frequency
        )
        for method, updater in _STEADY.items()
    }
    if pruning is not None:
        found["pruning"] = pruning
    rows = [{"method": m, "flops": value, "relative": value / found["dense"]} for m, value in found.items()]
    return pd.DataFrame(rows)


def pruning_flops(model: keras.Model, kernels: Mapping[str, keras.Variable], sparsities: Iterable[float]) -> float:
    """Average training FLOPs per example of gradual pruning with equal sparsities of all kernels.

    Args:
      model: the network.
      kernels: pruned kernels, by name.
      sparsities: sparsity at evenly spaced steps (fraction).

    Returns:
      FLOPs per example.
    """
    counter = counting.CostModel(model)
    shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}

    @functools.cache
    def at(sparsity: float) -> float:
        counts = distributions.nnz(shapes, sparsity, distribution="uniform")
        return counting.inference_flops(counter.costs({kernels[name].path: n for name, n in counts.items()}))

    return counting.pruning_flops_per_sample(at, sparsities)
