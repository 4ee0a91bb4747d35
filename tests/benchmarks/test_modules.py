"""Every benchmark can be imported, and their networks are those of the gin files."""

import importlib
import pathlib

import pytest

import benchmarks
from benchmarks import cases, hessian

MODULES = sorted(path.stem for path in pathlib.Path(benchmarks.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_is_imported(module):
    importlib.import_module(f"benchmarks.{module}")


# Weights, density of the gin files, biases and kernels of the papers' networks.
@pytest.mark.parametrize(
    ("network", "weights", "density", "biases", "kernels"),
    [("LeNet5", 44_190, 0.05, 236, 5), ("MLP", 266_200, 0.02, 410, 3)],
)
def test_networks_are_those_of_the_papers(network, weights, density, biases, kernels):
    case = hessian.make_case(network, 4)
    assert set(cases.NETWORKS) == {"LeNet5", "MLP"}
    # The number of zeros of every kernel is rounded down.
    assert 0 <= case.subspace.size - biases - weights * density < kernels
