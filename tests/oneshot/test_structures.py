"""One-shot pruning keeps to the structure of each kernel."""

import numpy as np
import pytest

from sparse_lib import api, oneshot
from sparse_lib.objective import Objective
from sparse_lib.structures import NM, Block, Channel, ConstantFanIn

STRUCTURES = [NM(2, 4), NM(1, 5), NM(3, 4), Block(2, 3), Block(4, 4), Channel(), ConstantFanIn()]
# The fast rows have every structure, every method, and both scopes where a group or a block may be short.
ONE_SHOT = [(s, "global", "magnitude") for s in STRUCTURES] + [
    (NM(2, 4), "layer", "magnitude"),
    (Block(2, 3), "layer", "magnitude"),
    (NM(2, 4), "output", "wanda"),
    *((NM(2, 4), "global", method) for method in ("random", "snip", "grasp", "synflow")),
]
ONE_SHOT_LAYER = [(s, "layer", "magnitude") for s in STRUCTURES if s not in (NM(2, 4), Block(2, 3))]


@pytest.mark.parametrize(
    ("structure", "scope", "method"),
    [*ONE_SHOT, *(pytest.param(*row, marks=pytest.mark.slow) for row in ONE_SHOT_LAYER)],
    ids=str,
)
def test_one_shot(structure, scope, method, tiny_model):
    model = tiny_model("mlp")
    rng = np.random.default_rng(0)
    batch = (rng.normal(size=(20, 6)).astype("float32"), rng.integers(0, 3, 20))
    kernels = api.sparse_kernels(model)
    rules = api.kernel_structures(model, kernels.values(), structure)
    rounds = 1 if method == "grasp" else 2
    pruning = oneshot.METHODS[method](sparsity=structure.fixed_sparsity or 0.4, scope=scope, rounds=rounds)
    masks = pruning.masks(Objective(model), kernels, [batch], structures=rules)
    assert all(rule.fits(mask) for rule, mask in zip(rules, masks, strict=True))
    kept = sum(int(rule.count(mask)) for rule, mask in zip(rules, masks, strict=True))
    units = sum(rule.size(kernel.shape) for rule, kernel in zip(rules, kernels.values(), strict=True))
    # Some kernels have two blocks.
    assert kept / units == pytest.approx(1 - pruning.sparsity, abs=0.25)
