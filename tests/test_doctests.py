"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pathlib

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Modules whose text has an example, so that none of them is forgotten here.
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "sparse_lib").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf8")
]
# What users call first: these have an example.
FIRST_CALLS = (
    "api.sparsify",
    "api.initialize",
    "kernels.sparse_kernels",
    "rewinding.rewind",
    "stripping.strip",
    "measure.flow.GradientFlowMeter",
    "api.transfer_masks",
    "masks.Masks",
    "masks.Masks.report",
    "distributions.nnz",
    "initializers.unit_scaled",
    "gradient_flow.norms",
    "structures.grouped.NM",
    "structures.blocks.Channel",
    "measure.flow.gradient_flow",
    "measure.spectrum.top_eigenvalues",
    "measure.spectrum.spectral_density",
    "measure.spectrum.trace",
    "measure.path.interpolation",
    "measure.inference.cost",
    "curvature.operators.HessianOperator",
    "curvature.eigenpairs.extreme",
    "curvature.quadrature.quadrature",
    "curvature.traces.traces",
    "curvature.exact.matrix.hessian",
    "counting.cost_model.layer_costs",
    "dead_neurons.dormant_fraction",
    "recycling.recycle_dormant",
    "deployment.channels.remove_dead_channels",
    "landscape.barrier.barrier",
    "landscape.evaluation.ModelEvaluator",
    "landscape.matching.match",
    "objective.Objective",
    "oneshot.base.OneShot.masks",
    "optimizer.sparse_optimizer.SparseOptimizer",
    "updaters.rigl.RigL",
    "updaters.rigl.SET",
    "updaters.snfs.SNFS",
    "updaters.mest.MEST",
    "updaters.prune.Prune",
    "updaters.cht.CHT",
    "updaters.cht.CHTs",
    "updaters.granet.GraNet",
    "updaters.acdc.ACDC",
    "updaters.srigl.SRigL",
    "updaters.topkast.TopKAST",
    "updaters.base.Static",
    "objective.Objective.hvp",
    "oneshot.methods.SNIP",
    "oneshot.methods.Wanda",
    "schedules.UpdateSchedule",
    "schedules.PolynomialSparsity",
    "schedules.Cosine",
    "layers.sparse_dense.SparseDense",
    "layers.sparse_layers.SparseLayers",
    "layers.update_masks.UpdateMasks",
    "layers.update_masks.UpdateMasks.step",
)


def examples(module: str) -> list[doctest.DocTest]:
    """Returns the examples of one module, without those of names that it imports."""
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module), module, globs={})
    return [test for test in tests if test.examples]


CASES = [example for module in MODULES for example in examples(module)]


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.name.removeprefix("sparse_lib."))
def test_example(example):
    keras.utils.set_random_seed(0)
    report: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert results.failed == 0, "\n".join(report)


@pytest.mark.parametrize("name", FIRST_CALLS)
def test_what_users_call_first_has_an_example(name):
    assert f"sparse_lib.{name}" in {example.name for example in CASES}
