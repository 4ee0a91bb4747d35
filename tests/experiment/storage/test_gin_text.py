"""The text of operative configurations, against gin itself."""

import gin
import pytest

from analysis.records import methods
from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.storage import gin_text

TEXT = """
# Macros:
# ====================
SPARSITY = 0.95
NAMES = ('a', 'b')

# Parameters for masks:
masks.sparsity = %SPARSITY
masks.custom = {'dense1': 0.5,
                'dense2': %SPARSITY}
network.pruned_layer_types = \\
    ('Conv2D', 'Dense')
network.mask_init_path = 'runs/50%SPARSITY/ckpt-3'
training.names = %NAMES
training.nothing = None
training.function = @somewhere()
training.unknown = %NOWHERE
"""


def test_every_kind_of_value():
    values = gin_text.parse(TEXT)
    assert values == {
        "masks.sparsity": 0.95,
        "masks.custom": {"dense1": 0.5, "dense2": 0.95},
        "network.pruned_layer_types": ("Conv2D", "Dense"),
        "network.mask_init_path": "runs/50%SPARSITY/ckpt-3",
        "training.names": ("a", "b"),
        "training.nothing": None,
        "training.function": "@somewhere()",
        "training.unknown": "%NOWHERE",
    }


@pytest.mark.parametrize("text", ["", "# nothing", "no statement here", "A = 1", "training.seed ="])
def test_what_says_nothing(text):
    assert set(gin_text.parse(text)) <= {"training.seed"}


def test_a_macro_that_means_itself_ends():
    assert "A" in gin_text.parse("A = %A\nx.y = %A")["x.y"]


def test_reads_what_gin_writes():
    gin.clear_config()
    try:
        bindings = ["masks.sparsity=0.75", "mask_updater.update_alg='rigl'", "training.seed=7", "STEPS=123"]
        gin_files.parse([], [*bindings, "training.total_steps=%STEPS", "mlp.hidden_sizes=(16, 8)"])
        Experiment.from_gin()
        values = gin_text.parse(gin_files.operative())
    finally:
        gin.clear_config()
    assert values["masks.sparsity"] == 0.75
    assert values["training.total_steps"] == 123
    identity = methods.identify(values)
    assert (identity.method, identity.seed, identity.total_steps) == ("rigl.erk", 7, 123)
