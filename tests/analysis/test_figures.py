"""Figures: drawn values, and the error message without data."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from analysis import propagation
from analysis.figures import accuracy, landscape, masks, palette, plateau, similarity, spectra, style, training
from analysis.figures import propagation as propagation_figures
from analysis.records import methods
from analysis.records.runs import load_runs


def case_of(directory):
    top = next(parent for parent in directory.parents if parent.name == "runs")
    loaded = load_runs(top)
    ((_, _, case),) = loaded.cases()
    return case


@pytest.fixture
def case(write_run):
    """Returns a case of two seeds of five methods."""
    for seed in (0, 1):
        for mode in ("dense", "prune", "scratch", "set_plus"):
            write_run(
                mode, seed, gradient_norm=[1.0, 2.0 + seed, 3.0], changes=[0.1, 0.2] if mode == "set_plus" else ()
            )
        directory = write_run("rigl_plus", seed, gradient_norm=[1.0, 5.0, 6.0], changes=[1.0, 2.0 + seed])
    return case_of(directory)


def lines(ax) -> dict[str, np.ndarray]:
    """Drawn lines by colour and style."""
    return {f"{line.get_color()}{line.get_linestyle()}": line.get_xydata() for line in ax.get_lines()}


def texts(figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(t.get_text() for t in figure.findobj(Text))


def test_gradient_norm_draws_means_and_ranges(case):
    figure = training.gradient_norm(case.metrics)
    assert len(figure.axes) == 4
    whole = figure.axes[3]
    own = next(line for line in whole.get_lines() if line.get_color() == palette.look("set.plus").colour)
    assert own.get_xydata().tolist() == [[0, 1.0], [5, 2.5], [10, 3.0]]
    band = whole.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (1.0, 3.0)
    assert {"Dense", "Pruning", "Scratch", "SET+", "RigL+"} <= set(texts(figure).split("\n"))
    assert figure.axes[0].get_ylabel() == "gradient norm"


def test_runs_that_are_behind_do_not_bend_the_mean(write_run):
    write_run("scratch", 0, gradient_norm=[1.0, 1.0, 1.0])
    directory = write_run("scratch", 1, gradient_norm=[3.0, 5.0], finished=False)
    figure = training.gradient_norm(case_of(directory).metrics)
    assert figure.axes[1].get_lines()[0].get_xydata().tolist() == [[0, 2.0], [5, 3.0]]


def test_runs_that_died_early_do_not_hide_the_others(write_run):
    write_run("scratch", 0, gradient_norm=[1.0, 1.0, 1.0])
    directory = write_run("scratch", 1, gradient_norm=[3.0], finished=False)
    figure = training.gradient_norm(case_of(directory).metrics)
    assert figure.axes[1].get_lines()[0].get_xydata().tolist() == [[0, 1.0], [5, 1.0], [10, 1.0]]


def test_mask_updates_have_a_panel_a_method(case):
    figure = training.mask_update_change(case.mask_updates)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["SET: what an update adds", "RigL: what an update adds"]
    drawn = figure.axes[1].get_lines()[0].get_xydata()
    assert drawn.tolist() == [[5, 1.0], [10, pytest.approx(2.5)]]


def test_loss_and_accuracy(case):
    figure = training.loss(case.metrics)
    assert [ax.get_ylabel() for ax in figure.axes] == ["training loss (nats)", "test accuracy"] * 2


def test_runs_that_never_leave_the_plateau_are_censored_and_not_averaged(write_run):
    for seed, left in enumerate([20, 40, None, 60, None]):
        directory = write_run("scratch", seed, left_plateau_at=left, outcome="trained" if left else "at_chance")
    write_run("rigl_plus", 0, outcome="diverged", left_plateau_at=5)
    write_run("rigl_plus", 1, finished=False)
    case = case_of(directory)
    known = plateau.select(case.runs)
    assert list(known["run"]) == ["0/rigl_plus", "0/scratch", "1/scratch", "2/scratch", "3/scratch", "4/scratch"]
    # The runs that never left were followed until step 10, and so are not at risk later: 3 left of 3.
    own = known[known["label"] == "Scratch"]
    assert list(own["until"]) == [20, 40, 10, 60, 10]
    assert plateau.estimate(own) == ([0, 10, 20, 40, 60], [1, 1, pytest.approx(2 / 3), pytest.approx(1 / 3), 0])
    longer = own.assign(until=[20.0, 40.0, 100.0, 60.0, 50.0])
    x, y = plateau.estimate(longer)
    assert x == [0, 20, 40, 50, 60, 100]
    assert y == pytest.approx([1, 4 / 5, 3 / 5, 3 / 5, 3 / 10, 3 / 10])
    strip, curves = plateau.plateau(case.runs).axes
    crosses = [line for line in strip.get_lines() if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[10, 10]]
    assert [label.get_text() for label in strip.get_yticklabels()] == ["Scratch", "RigL+"]
    assert len(curves.get_lines()) == 2
    with pytest.raises(style.NoData, match="No run has ended"):
        plateau.plateau(case.runs[case.runs["state"] == "unfinished"])


def test_accuracy_against_sparsity_and_flops(case):
    figure = accuracy.against_sparsity(case.results)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["90%"]
    assert "dense" in texts(figure)
    relative = accuracy.against_flops(case.results)
    assert relative.axes[0].get_xlabel() == "FLOPs, relative to the dense network"
    largest = max(line.get_xdata()[0] for line in relative.axes[0].get_lines())
    assert largest == pytest.approx(1.0)


def test_accuracy_by_method_names_runs_far_below_and_ends_at_100_percent():
    rows = [("Dense", "dense", 1.0)] * 3 + [("RigL", "rigl", 0.96), ("RigL", "rigl", 0.98), ("RigL", "rigl", 1.0)]
    rows += [("Scratch", "scratch", 0.1), ("Scratch", "scratch", 0.12), ("Scratch", "scratch", 0.97)]
    frame = pd.DataFrame(rows, columns=["label", "method", "test_accuracy"])
    figure = accuracy.by_method(frame)
    (ax,) = figure.axes
    assert "\u25c2 2 of 3 runs at 10 to 12%" in texts(figure)
    assert ax.get_xlim()[0] > 0.9 and ax.get_xlim()[1] == 1.0
    # Student's quantile of two degrees of freedom is 4.303: 0.98 +- 4.303 * 0.02 / sqrt(3), ended at 1.
    (interval,) = [c.get_segments()[0] for c in ax.collections]
    assert interval[:, 0].tolist() == [pytest.approx(0.98 - 4.303 * 0.02 / 3**0.5, abs=1e-4), 1.0]
    # A method that lacks runs on the axis has no mean there.
    means = [line.get_xdata()[0] for line in ax.get_lines() if line.get_markersize() == 8]
    assert means == [1.0, pytest.approx(0.98)]


def test_runs_far_below_are_named_and_do_not_stretch_the_axes(case):
    results = case.results.copy()
    results.loc[results["run"] == "0/scratch", "test_accuracy"] = 0.1
    # Nothing is left of SET+ to draw.
    results.loc[results["label"] == "SET+", "test_accuracy"] = 0.1
    for figure in (accuracy.against_sparsity(results), accuracy.against_flops(results)):
        figure.draw_without_rendering()
        assert all(ax.get_position().width > 0.2 for ax in figure.axes)
        assert "Not drawn: Scratch: 1 of 2 runs at 10%; SET+: 2 of 2 runs at 10%." in texts(figure)
        assert figure.axes[0].get_ylim()[0] > 0.8


def test_sparsity_is_drawn_by_the_weights_that_remain():
    figure, ((ax,),) = style.grid(1, 1, 2)
    ax.plot([0.0, 0.9, 0.99, 0.9901], [1, 2, 3, 4])
    style.set_sparsity_axis(ax, [0.9, 0.0, 0.99, 0.9901])
    figure.draw_without_rendering()
    # From all weights to a tenth is as far as to a hundredth; ticks that would overlap are left out.
    places = ax.transData.transform([(s, 1) for s in (0.0, 0.9, 0.99)])[:, 0]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0%", "90%", "99%"]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.5, 1.2, ["60%", "80%", "100%"]),
        (0.9985, 1.0, ["99.85%", "99.90%", "99.95%", "100.00%"]),
        (-0.2, 0.0002, ["0.000%", "0.005%", "0.010%", "0.015%", "0.020%"]),
    ],
)
def test_percent_axes_have_distinct_ticks_within_0_and_100(low, high, labels):
    figure, ((ax,),) = style.grid(1, 1, 2)
    style.set_percent_axis(ax.yaxis, "")
    ax.set_ylim(low, high)
    figure.draw_without_rendering()
    shown = [t.get_text() for t, at in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True) if 0 <= at <= 1]
    assert len(set(shown)) == len(shown) >= 3
    assert set(labels) <= set(shown) and 0 <= ax.get_ylim()[0] < ax.get_ylim()[1] <= 1


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.5, 20, ["0.5", "1", "2", "5", "10", "20"]),
        (2.301, 2.304, ["2.301", "2.302", "2.303", "2.304"]),
        (1e-6, 1e4, ["1e-6", "0.0001", "0.01", "1", "100", "10000"]),
    ],
)
def test_logarithmic_axes_have_distinct_ticks_however_short(low, high, labels):
    figure, ((ax,),) = style.grid(1, 1, 2)
    style.set_log_axis(ax.yaxis, "")
    ax.set_ylim(low, high)
    figure.draw_without_rendering()
    shown = [t.get_text() for t in ax.get_yticklabels()]
    assert set(labels) <= set(shown) and len(set(shown)) == len(shown) <= 12


def test_contours_of_nearly_equal_losses_have_distinct_labels():
    loss = np.linspace(2.3024, 2.3026, 9).reshape(3, 3)
    figure = landscape.surface(np.arange(3.0), np.arange(3.0), loss)
    figure.draw_without_rendering()
    labels = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert len(set(labels)) == len(labels)


def test_text_of_figures_is_text_and_dollars_are_no_formula(tmp_path):
    frame = pd.DataFrame({"label": "RigL, name='$x_$'", "method": "rigl", "test_accuracy": [0.9]})
    (path,) = style.save(accuracy.by_method(frame), tmp_path / "figure", formats=("svg",))
    assert "$x_$" in path.read_text(encoding="utf8")
    (path,) = style.save(accuracy.by_method(frame), tmp_path / "figure", formats=("svg",), outlines=True)
    assert "<text" not in path.read_text(encoding="utf8")


def test_layers_and_masks(case):
    figure = masks.layer_sparsity(case.layers)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["dense1", "dense2"]
    # All methods have the same sparsities: one entry of the legend.
    assert len(figure.axes[0].get_legend().get_texts()) == 1
    evolution = masks.evolution(case.metrics)
    assert len(evolution.axes[0].get_lines()) == 2


def test_survival_begins_at_one():
    frame = pd.DataFrame({"run": "a", "label": "RigL", "method": "rigl", "age": [10], "survival": [0.5]})
    drawn = masks.survival(frame).axes[0].get_lines()[0]
    assert drawn.get_xydata().tolist() == [[0, 1], [10, 0.5]]


def test_interpolation():
    rows = [
        ("Lottery", "lottery", run, start, a, split, loss + run, 0.9)
        for run in (0, 1)
        for start in (True, False)
        for split in ("train", "test")
        for a, loss in ((0, 1.0), (0.5, 3.0), (1, 2.0))
    ]
    columns = ["label", "method", "run", "from_start", "coefficient", "split", "loss", "accuracy"]
    frame = pd.DataFrame(rows, columns=columns)
    figure = landscape.interpolation(frame)
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == [
        "From the initial weights",
        "From the end of training",
    ]
    assert figure.axes[0].get_lines()[0].get_xydata().tolist() == [[0, 1.5], [0.5, 3.5], [1, 2.5]]
    assert len(landscape.interpolation(frame[frame["from_start"]]).axes) == 2


def test_surfaces_leave_blank_what_is_not_known():
    loss = np.array([[1.0, np.nan, 3.0], [2.0, 1.0, 2.0], [4.0, 5.0, 6.0]])
    marks = pd.DataFrame({"x": [0.0], "y": [0.0], "name": ["here"], "step": [5]})
    figure = landscape.picture("plane", np.arange(3.0), np.arange(3.0), loss, marks, "train")
    assert "here" in texts(figure)
    assert "loss (nats)" in texts(figure)
    landscape.picture("trajectory", np.arange(3.0), np.arange(3.0), loss, marks, "train")
    flat = landscape.picture("surface", np.arange(3.0), np.arange(3.0), np.ones((3, 3)), marks, "test")
    assert flat.axes[0].get_title(loc="left") == "test loss"


def test_instability():
    frame = pd.DataFrame(
        {"label": "Pruning", "method": "prune", "step": [0, 0, 5], "split": "test", "error_barrier": [0.1, 0.3, 0.0]}
    )
    ax = landscape.instability(frame).axes[0]
    assert ax.get_lines()[1].get_xydata().tolist() == [[0, 0.2], [5, 0.0]]


def test_spectra_before_and_after():
    before, after = np.array([-1.0, 0.0, 0.1, 5.0]), np.array([-2.0, 0.0, 0.1, 7.0])
    grid = np.linspace(-1, 1, 50)
    exact = spectra.Pair("a", 1, 100, before, after)
    estimated = spectra.Pair("b", 2, 200, *((grid, grid**2 + 1),) * 2)
    figure = spectra.before_and_after([exact, estimated], title="RigL+")
    assert {"after: -2 to 7", "step 100, seed 1", "step 200, seed 2", "RigL+"} <= set(texts(figure).split("\n"))
    assert figure.axes[0].patches[0].get_data().values.sum() == 4
    # A run is a row, an update a column.
    assert [ax.get_visible() for ax in figure.axes] == [True, False, False, True]


def test_spectra_over_training():
    numbers = [0, 5, 10, -4, -5]
    columns = {"run": "a", "label": "RigL", "method": "rigl", "number": numbers, "step": np.abs(numbers)}
    frame = pd.DataFrame({**columns, "lambda_max": [1.0, 7.0, 2.0, 7.0, 9.0], "lambda_min": -1.0, "negative": 3})
    line, points = spectra.extremes(frame).axes[0].get_lines()
    # The update at step 5 lies between the states after 5 and after 6 steps.
    assert line.get_xydata().tolist() == [[0, 1], [5, 7], [6, 9], [10, 2]]
    assert points.get_marker() != "None"


@pytest.mark.parametrize("number", [0, 7, -7])
def test_a_single_spectrum_is_seen(number):
    columns = {"run": ["a"], "label": "RigL", "method": "rigl", "number": number, "step": abs(number)}
    figure = spectra.extremes(pd.DataFrame({**columns, "lambda_max": 2.0, "lambda_min": -1.0, "negative": 3}))
    assert [len(line.get_xydata()) for line in figure.axes[0].get_lines()] == [1, 1]
    figure.canvas.draw()


def test_embedding_and_matrix():
    rows = [("a", "Pruning", "prune", "end", 0.0, 0.0), ("b", "Lottery", "lottery", "start", 1.0, 1.0)]
    rows.append(("b", "Lottery", "lottery", "end", 2.0, 0.0))
    frame = pd.DataFrame(rows, columns=["run", "label", "method", "end", "x", "y"])
    assert "stress 0.125" in texts(similarity.embedding(frame, 0.125))
    values = np.array([[0.0, 0.1, 0.2], [0.1, 0.0, 0.3], [0.2, 0.3, 0.0]])
    figure = similarity.matrix(values, ["A", "A", "B"], title="Disagreement")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["A", "B"]
    assert {"10.0", "20.0", "30.0"} <= set(texts(figure).split("\n"))


def test_signal_propagation():
    frame = pd.DataFrame(
        {"network": "mlp", "init": init, "sparsity": s, "repeat": r, "logit_std": 1.0 + r, "unit_std": 1.0}
        for init in propagation.INITS
        for s in (0.0, 0.9)
        for r in (0, 1)
    )
    figure = propagation_figures.signal(frame)
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [1.5, 1.5]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0%", "90%"]


EMPTY = pd.DataFrame()
RUNS = pd.DataFrame(columns=["run", "label", "method", "metric", "value", "layer", "step", "split", "from_start"])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: training.gradient_norm(EMPTY),
        lambda: training.mask_update_change(EMPTY),
        lambda: training.loss(EMPTY),
        lambda: accuracy.by_method(EMPTY),
        lambda: accuracy.against_sparsity(EMPTY),
        lambda: accuracy.against_flops(EMPTY),
        lambda: masks.layer_sparsity(RUNS),
        lambda: masks.evolution(EMPTY),
        lambda: masks.survival(EMPTY),
        lambda: landscape.interpolation(EMPTY),
        lambda: landscape.surface(np.arange(2), np.arange(2), np.full((2, 2), np.nan)),
        lambda: landscape.instability(EMPTY),
        lambda: spectra.before_and_after([]),
        lambda: spectra.extremes(EMPTY),
        lambda: similarity.embedding(EMPTY, 0.0),
        lambda: similarity.matrix(np.zeros((1, 1)), ["A"], title=""),
        lambda: propagation_figures.signal(EMPTY),
    ],
)
def test_nothing_to_draw_is_a_sentence(draw):
    with pytest.raises(style.NoData, match=r"^[A-Z].*\.$"):
        draw()


def test_files_are_written_and_repeat(case, tmp_path):
    written = style.save(training.mask_update_change(case.mask_updates), tmp_path / "figure")
    assert [path.name for path in written] == ["figure.svg", "figure.pdf", "figure.png"]
    contents = [path.read_bytes() for path in written]
    again = style.save(training.mask_update_change(case.mask_updates), tmp_path / "figure")
    assert [path.read_bytes() for path in again] == contents
    image = np.asarray(Image.open(written[2]).convert("RGB"))
    assert image.shape[1] > 1400
    assert image.min() < 50
    assert (image[0, 0] == 255).all()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "figure.pdf",
        "figure.png",
        "figure.svg",
    ]


def test_methods_look_alike_everywhere_and_variants_differ():
    frame = pd.DataFrame(
        {
            "label": ["RigL+", "RigL+, update_freq=5", "RigL", "RigL+ (ERK)"],
            "method": ["rigl.plus"] * 2 + ["rigl", "rigl.plus.erk"],
        }
    )
    looks = palette.looks(frame)
    assert list(looks) == ["RigL", "RigL+", "RigL+, update_freq=5", "RigL+ (ERK)"]
    assert looks["RigL+"] == palette.look("rigl.plus")
    assert len(set(looks.values())) == 4
    assert looks["RigL"].fill == "none"


def test_colours_can_be_told_apart_by_the_colour_blind():
    # Viénot et al. 1999: what deuteranopes and protanopes see, in linear light.
    kinds = {
        "deuteranope": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        "protanope": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    }
    shown = ["prune", "lottery", "scratch", "set", "rigl", "dense", "small_dense", "prune_restart"]
    colours = np.array([to_rgb(palette.look(method).colour) for method in shown])
    for matrix in (np.eye(3), *kinds.values()):
        seen = np.clip(colours**2.2 @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        for a in range(len(shown)):
            for b in range(a):
                distance = np.linalg.norm(seen[a] - seen[b])
                assert distance > 0.1, (shown[a], shown[b])


def test_initialisations_and_masks_of_a_method_differ_as_lines_and_as_points():
    looks = [palette.look(f"scratch{suffix}") for suffix in ("", ".plus", ".liu", ".metainit")]
    looks += [palette.look("rigl"), palette.look("rigl.plus"), palette.look("rigl.plus.erk")]
    assert len({(look.colour, look.marker, look.fill) for look in looks}) == len(looks)
    assert len({(look.colour, look.line) for look in looks}) == len(looks) - 1


@pytest.mark.parametrize("method", ["dense", "rigl.plus", "unheard_of"])
def test_colours_stand_out_on_light_and_dark_pages(method):
    def luminance(colour) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    own = luminance(palette.look(method).colour)
    assert (1.05) / (own + 0.05) > 2
    assert (own + 0.05) / (luminance("#15181c") + 0.05) > 3


def test_every_base_method_has_a_label():
    assert all(palette.look(base) for base in methods.BASES)
