"""The FLOPs command: the published tables to the digits that are printed, and its own output."""

import pathlib

import gin
import keras
import pandas as pd
import pytest

from analysis.flops import __main__, cost_tables, published_costs
from sparse_lib import counting
from sparse_lib.experiment.networks import LeNet5, Style

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "flops.md"


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def agrees(found: float, printed: float, digits: int) -> bool:
    """Whether a number is printed so, rounded to two digits of its magnitude or some after the point."""
    if printed > 1e6:
        return float(f"{found:.1e}") == float(f"{printed:.1e}")
    # The README gives the longest training with one digit.
    digits = 1 if printed == 5.8 else digits
    return abs(found - printed) <= 0.5 * 10**-digits + 1e-9


def disagreements(table: pd.DataFrame, printed: str, digits: dict[str, int]) -> list[list[str]]:
    """Columns of every row that are printed otherwise."""
    return [
        [name for name, after in digits.items() if not agrees(row[name], row[f"{name}_{printed}"], after)]
        for _, row in table.iterrows()
    ]


@pytest.mark.slow
def test_readme_of_resnet50():
    table = cost_tables.readme("resnet50")
    found = disagreements(table, "readme", {"training": 2, "inference": 2, "megabytes": 3})
    expected = {
        published_costs.RESNET50[2].oddity: ["megabytes"],
        published_costs.RESNET50[7].oddity: ["megabytes"],
        published_costs.RESNET50[15].oddity: ["training"],
        "": [],
    }
    assert found == [expected[oddity] for oddity in table["oddity"]]
    assert len(table) == 17 and (table["oddity"] != "").sum() == 4


def test_what_the_oddities_of_resnet50_say():
    network = cost_tables.build_network("resnet50")
    assert round(network.count_published("er", 0.8).megabytes, 3) == 23.685
    assert round(network.count_published("erk", 0.965, ["conv1"]).megabytes, 3) == 6.904
    assert round(network.count_published("erk", 0.965).flops / network.count_published("dense", 0).flops, 2) == 0.09
    small = network.count_published("dense", 0.0, width=0.444).flops / network.count_published("dense", 0.0).flops
    assert (round(small, 2), round(5 * small, 2)) == (0.20, 1.01)


def test_readme_of_mobilenet():
    table = cost_tables.readme("mobilenet_v1")
    found = disagreements(table, "readme", {"training": 2, "inference": 2, "megabytes": 3})
    assert found[0] == [] and found[1:3] == [["training", "inference"]] * 2
    assert found[3:] == [["training", "inference", "megabytes"]] * 3


def test_the_notebook_on_mobilenet_to_the_last_digit():
    table = cost_tables.notebook()
    assert disagreements(table, "notebook", {"megaflops": 3, "megabytes": 3}) == [[]] * 9


def test_figure_2_of_the_paper():
    table = cost_tables.methods()
    found = disagreements(table, "paper", {"training": 2, "inference": 2})
    for row, wrong in zip(published_costs.METHODS, found, strict=True):
        assert bool(wrong) == bool(row.oddity), row
    sparse = table[(table["sparsity"] == 0.9) & (table["masks"] == "uniform") & (table["method"] == "rigl")]
    assert len(sparse) == 2
    # With the first layer sparse, too, they are as printed.
    network = cost_tables.build_network("resnet50")
    whole, all_sparse = (network.count_published(kind, 0.9).flops for kind in ("dense", "uniform"))
    training = counting.training_flops_per_sample("dense_at_updates", whole, all_sparse) / (3 * whole)
    assert (round(all_sparse / whole, 2), round(training, 2), round(5 * training, 2)) == (0.10, 0.10, 0.52)


def test_published_widths_are_near_those_of_equal_size():
    table = cost_tables.widths()
    assert len(table) == 14
    assert ((table["width_notebook"] / table["nearest"] - 1).abs() < 0.01).all()
    assert ((table["size"] - 1).abs() < 0.02).all() and ((table["nearest_size"] - 1).abs() < 0.006).all()
    assert (table["size"] - 1).abs().ge((table["nearest_size"] - 1).abs() - 1e-12).all()
    # Figure 3 of the paper: 0.23, 0.09 and 1.91 times the FLOPs of MobileNet-v1.
    relative = table.set_index("width_notebook")["inference"].round(2)
    assert (relative[0.47], relative[0.285], relative[1.98]) == (0.23, 0.09, 1.91)


def test_the_honest_count_of_resnet50_by_hand(golden):
    expected = 0
    for layer in golden("counting")["resnet50"]["layers"]:
        *window, inputs, outputs = layer["kernel"]
        positions = (layer["true_output_size"] or 1) ** 2
        if not window:
            # A bias starts the sums of the logits.
            expected += outputs * 2 * inputs
            continue
        products = window[0] * window[1] * inputs
        expected += positions * outputs * (2 * products - 1)
        # A ReLU follows the stem, the first two convolutions of a block, and its sum once.
        if not layer["name"].startswith("res") or "branch2" in layer["name"]:
            expected += positions * outputs
    assert cost_tables.build_network("resnet50").count_honest("dense", 0.0).flops == expected


# [Re] Rigging the Lottery, table 2: WRN-22-2 on CIFAR-10, 3.15e8 FLOPs of inference and 9.45e8 of training.
@pytest.mark.parametrize(
    ("masks", "relative"),
    [("uniform 0.8", 0.20), ("uniform 0.9", 0.10), ("erk 0.8", 0.35), ("erk 0.9", 0.17)],
)
def test_the_honest_count_of_wrn_22_2_is_that_of_the_reproduction(masks, relative, tmp_path):
    distribution, sparsity = masks.split()
    bindings = [
        "network.network_name = 'wide_resnet'",
        f"masks.distribution = '{distribution}'",
        f"masks.sparsity = {sparsity}",
    ]
    options = [*(f"--gin_bindings={b}" for b in bindings), "--image=32x32x3", "--classes=10", f"--out={tmp_path}"]
    assert __main__.main(options) == 0
    layers, training = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("layers", "training"))
    total = layers.iloc[-1]
    assert total["dense_flops"] == pytest.approx(3.15e8, rel=2e-3)
    assert total["flops"] / total["dense_flops"] == pytest.approx(relative, abs=0.006)
    by_method = training.set_index("method")["flops"]
    assert by_method["dense"] == pytest.approx(9.45e8, rel=2e-3)
    assert by_method["set"] == 3 * total["flops"] < by_method["rigl"] < by_method["snfs"] < by_method["dense"]


def test_layers_add_up_and_a_pruned_network_is_averaged():
    with keras.StatelessScope():
        model = LeNet5().build((28, 28, 1), 10, Style())
    table = cost_tables.layers(model, {"lenet5/conv1/kernel": 50}, "honest")
    assert list(table["layer"])[-1] == "total" and table["weights"].iloc[-1] == 44_190
    assert table["active"].iloc[-1] == 44_190 - 100
    assert (table.iloc[:-1, 1:].sum() == table.iloc[-1, 1:]).all()
    kernels = {v.path.removeprefix("lenet5/"): v for v in model.trainable_variables if v.name == "kernel"}
    average = cost_tables.pruning_flops(model, kernels, [0.0, 0.0, 0.0, 0.95])
    assert average == 3 * (3 * 567_964 + 33_424) / 4


def test_the_command_prints_and_writes(capsys, tmp_path):
    assert __main__.main(["--table=notebook", f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert __main__.TABLES["notebook"] in printed and "1141.544" in printed
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "notebook.csv"), cost_tables.notebook())


def test_the_command_describes_any_network(capsys, tmp_path):
    config = ROOT / "mlp_configs" / "prune.gin"
    assert __main__.main([f"--gin_config={config}", "--image=28x28x1", "--classes=10", "--rule=micronet"]) == 0
    printed = capsys.readouterr().out
    assert "mlp/dense2/kernel" in printed and "pruning" in printed and "micronet rule" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gin_config=none.gin"], "error: There is no gin file none.gin"),
        (["--gin_bindings=network.network_name='alexnet'"], "error: network.network_name='alexnet' is not known"),
    ],
)
def test_failures_are_one_line(capsys, words, message):
    assert __main__.main(words) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(message) and printed.count("\n") == 1


def test_contradictions_are_usage_errors(capsys):
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["--table=widths", "--gin_config=configs/rigl.gin"])
    assert "give one of them" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["--image=224"])
    assert "HxWxC" in capsys.readouterr().err


@pytest.mark.parametrize("name", __main__.TABLES)
def test_the_document_shows_what_the_command_prints(name):
    maker = {"notebook": cost_tables.notebook, "methods": cost_tables.methods, "widths": cost_tables.widths}.get(name)
    table = maker() if maker else cost_tables.readme(name)
    assert __main__.format_table(__main__.TABLES[name], table) in DOCUMENT.read_text(encoding="utf8")
