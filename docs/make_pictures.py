"""Draws docs/pictures/: masks, updates, distributions, schedules, tickets and gradient flow.

All pictures but the diagram of the tickets are computed by the library.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import matplotlib as mpl
import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import sparse_lib
from analysis.figures import palette, style
from sparse_lib import distributions, gradient_flow, initializers, schedules
from sparse_lib.experiment.data import DataSettings, load_dataset
from sparse_lib.experiment.networks import LeNet5, Style
from sparse_lib.masks import random_masks
from sparse_lib.structures import UNSTRUCTURED
from sparse_lib.updaters import Kernel, UpdateContext

FOLDER = pathlib.Path(__file__).with_name("pictures")
# Published protocol: 11,719 steps, pruning from 3,000 to 7,000, mask updates until three quarters of training.
STEPS, PRUNING = 11_719, (3_000, 7_000)
# Width and height of a box in the diagram of the tickets.
_BOX = (18, 6)


@style.use_style
def structures() -> Figure:
    """Masks of one kernel under each structure."""
    shape = (16, 16)
    rows = [
        ("single weights", UNSTRUCTURED, 64),
        ("2:4", sparse_lib.NM(2, 4), 128),
        ("blocks of 4x4", sparse_lib.Block(4, 4), 64),
        ("channels", sparse_lib.Channel(), 64),
        ("constant fan-in", sparse_lib.ConstantFanIn(), 64),
    ]
    figure, axes = style.grid(1, len(rows), 1.9)
    for ax, (title, structure, active) in zip(axes[0], rows, strict=True):
        (mask,) = random_masks([shape], [active], 0, [structure])
        _draw_cells(ax, mask, palette.BLUE)
        ax.set_title(title)
        ax.set_xlabel("outputs")
    axes[0, 0].set_ylabel("inputs")
    return figure


@style.use_style
def update() -> Figure:
    """One update of RigL on a small kernel."""
    rng = np.random.default_rng(4)
    (mask,) = random_masks([(10, 10)], [30], 1)
    weight = np.where(mask, rng.normal(size=mask.shape), 0).astype(np.float32)
    gradient = rng.normal(size=mask.shape).astype(np.float32)
    kernel = Kernel(tf.constant(mask), tf.constant(weight), tf.constant(gradient), {})
    context = UpdateContext(tf.constant(0, tf.int64), tf.constant(0.1), 0)
    (after,) = sparse_lib.RigL(drop_fraction=0.3, end_step=1_000).update([kernel], context)
    new = after.mask.numpy()
    figure, axes = style.grid(1, 4, 2.3)
    before, scores, dropping, growing = axes[0]
    _draw_cells(before, mask, palette.GREY)
    before.set_title("active weights")
    _draw_shades(scores, np.where(mask, abs(weight), np.nan))
    _draw_marks(scores, mask & ~new, "x", palette.RED)
    scores.set_title("drop: smallest |w|")
    _draw_shades(dropping, np.where(mask & new, np.nan, abs(gradient)))
    _draw_marks(dropping, new & ~mask, "o", palette.PINK)
    dropping.set_title("grow: largest |g|")
    _draw_cells(growing, mask & new, palette.GREY)
    _draw_cells(growing, new & ~mask, palette.PINK)
    growing.set_title("as many, elsewhere")
    return figure


@style.use_style
def layers() -> Figure:
    """Density per layer of LeNet5 at 90% sparsity under each distribution."""
    kernels = sparse_lib.sparse_kernels(_network())
    shapes = {name.partition("/")[0]: tuple(kernel.shape) for name, kernel in kernels.items()}
    looks = {"uniform": (palette.GREY, ""), "ER": (palette.SKY, "///"), "ERK": (palette.BLUE, "")}
    figure, ((ax,),) = style.grid(1, 1, 2.5)
    for place, (name, (colour, hatch)) in enumerate(looks.items()):
        found = distributions.sparsities(shapes, 0.9, distribution=name.lower())
        x = np.arange(len(shapes)) + 0.27 * (place - 1)
        density = [1 - found[layer] for layer in shapes]
        ax.bar(x, density, 0.25, color=colour, hatch=hatch, edgecolor=style.INK, linewidth=0.5, label=name)
    ax.set_xticks(range(len(shapes)), [f"{n}\n{'x'.join(map(str, s))}" for n, s in shapes.items()])
    style.set_percent_axis(ax.yaxis, "density")
    ax.grid(visible=False, axis="x")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@style.use_style
def over_time() -> Figure:
    """Sparsity and drop fraction over a training run."""
    steps = np.arange(0, STEPS, 50)
    last = 3 * STEPS // 4
    figure, ((left, right),) = style.grid(1, 2, 2.5)
    pruning = schedules.PolynomialSparsity(0.0, 0.95, *PRUNING)
    left.plot(steps, [float(pruning(s)) for s in steps], color=palette.GREEN, label="gradual pruning")
    left.axhline(0.95, color=palette.BLUE, linestyle=(0, (4, 1.6)), label="static, SET, RigL")
    left.set_title("sparsity")
    fractions: dict[str, tuple[Callable[[Any], Any], str, Any]] = {
        "cosine": (schedules.Cosine(0.3, last), palette.BLUE, "-"),
        "inverse power": (schedules.InversePower(0.3, last), palette.RED, (0, (4, 1.6))),
        "constant": (schedules.Constant(0.3), palette.GREY, (0, (1.2, 1.2))),
    }
    for name, (fraction, colour, line) in fractions.items():
        right.plot(steps, [float(fraction(s)) for s in steps], color=colour, linestyle=line, label=name)
    right.set_title("drop fraction")
    for ax in (left, right):
        style.set_percent_axis(ax.yaxis, "")
        style.set_steps_axis(ax)
        ax.set_ylim(bottom=0)
        ax.legend(loc="best")
    return figure


@style.use_style
def tickets() -> Figure:
    """Origin of the weights of each kind of ticket."""
    figure = Figure(figsize=(style.WIDTH, 2.4))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 84), ylim=(0, 27))
    ax.axis("off")
    step_0 = _draw_box(ax, 1, 17, "dense init\nstep 0", palette.GREY)
    early = _draw_box(ax, 22, 17, "a little trained\nstep 500", palette.GREY)
    pruned = _draw_box(ax, 43, 17, "trained and pruned\nlast step", palette.GREEN)
    fresh = _draw_box(ax, 64, 17, "another draw\ndense or sparsity-aware", palette.GREY)
    _draw_arrow(ax, step_0, early)
    _draw_arrow(ax, early, pruned)
    runs = {
        "lottery ticket": (step_0, palette.PINK),
        "rewound ticket": (early, palette.VIOLET),
        "prune-restart": (pruned, palette.VIOLET),
        "scratch, scratch+": (fresh, palette.ORANGE),
    }
    for name, (source, colour) in runs.items():
        _draw_arrow(ax, source, _draw_box(ax, source.get_x(), 4.5, f"{name}\nthese weights, the mask", colour))
    ax.text(1, 25, "weights", fontweight="bold", va="center")
    ax.text(1, 1.5, "The mask is the pruned network's in all four; the weights they start from differ.", va="center")
    return figure


@style.use_style
def flow() -> Figure:
    """Gradient norm of untrained sparse networks against sparsity."""
    sparsities = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
    lines = {
        "dense init, masked": (_dense_init, palette.ORANGE, (0, (4, 1.6)), "v"),
        "sparsity-aware init": (_sparse_init, palette.BLUE, "-", "^"),
    }
    figure, ((ax,),) = style.grid(1, 1, 2.5)
    for name, (draw, colour, line, marker) in lines.items():
        medians = [np.median([_gradient_norm(sparsity, draw, seed) for seed in range(7)]) for sparsity in sparsities]
        # Two digits: sums in another order on another processor give the same picture.
        rounded = [float(f"{median:.2g}") for median in medians]
        ax.plot(sparsities, rounded, color=colour, linestyle=line, marker=marker, label=name)
    style.set_sparsity_axis(ax, sparsities)
    style.set_log_axis(ax.yaxis, "gradient norm of the\nactive weights")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "structures": structures,
    "update": update,
    "layers": layers,
    "over_time": over_time,
    "tickets": tickets,
    "flow": flow,
}


def _network() -> keras.Model:
    return LeNet5().build((28, 28, 1), 10, Style())


def _dense_init(mask: np.ndarray, seed: list[int]) -> tf.Tensor:
    drawn = initializers.layer_scaled(np.ones_like(mask), method="fanin_normal", scale=2.0, seed=seed)
    return tf.where(mask, drawn, 0.0)


def _sparse_init(mask: np.ndarray, seed: list[int]) -> tf.Tensor:
    return initializers.unit_scaled(mask, method="fanin_normal", scale=2.0, seed=seed)


def _gradient_norm(sparsity: float, draw: Callable[[np.ndarray, list[int]], tf.Tensor], seed: int) -> float:
    model = _network()
    masks = sparse_lib.sparsify(model, sparsity, "uniform", seed=seed)
    for index, (kernel, mask) in enumerate(masks):
        kernel.assign(draw(mask.numpy(), [seed, index]))
    objective, held_out = sparse_lib.Objective(model), load_dataset(DataSettings()).validation
    gradient = objective.gradient(objective.params(), tf.constant(held_out.images), tf.constant(held_out.labels))
    return float(gradient_flow.norms(gradient, masks.aligned(model.trainable_variables)).total)


def _draw_cells(ax: Axes, marked: np.ndarray, colour: str) -> None:
    """Draws a matrix of cells and fills the marked ones."""
    shown = np.ma.masked_where(~marked, marked)
    ax.imshow(shown, cmap=mpl.colors.ListedColormap([colour]), vmin=0, vmax=1)
    _draw_frame(ax, marked.shape)


def _draw_shades(ax: Axes, values: np.ndarray) -> None:
    ax.imshow(values, cmap="Greys", vmin=0, vmax=np.nanmax(values))
    _draw_frame(ax, values.shape)


def _draw_frame(ax: Axes, shape: tuple[int, ...]) -> None:
    rows, columns = shape
    ax.set_xticks(np.arange(columns + 1) - 0.5, [""] * (columns + 1))
    ax.set_yticks(np.arange(rows + 1) - 0.5, [""] * (rows + 1))
    ax.tick_params(length=0)


def _draw_marks(ax: Axes, where: np.ndarray, marker: str, colour: str) -> None:
    y, x = np.nonzero(where)
    ax.add_line(Line2D(x, y, linestyle="none", marker=marker, color=colour, fillstyle="none", markeredgewidth=1.8))


def _draw_box(ax: Axes, x: float, y: float, text: str, colour: str) -> FancyBboxPatch:
    box = FancyBboxPatch((x, y), _BOX[0], _BOX[1], boxstyle="round,pad=0.2", fc="none", ec=colour, lw=1.8)
    ax.add_patch(box)
    ax.text(x + _BOX[0] / 2, y + _BOX[1] / 2, text, ha="center", va="center")
    return box


def _draw_arrow(ax: Axes, start: FancyBboxPatch, end: FancyBboxPatch, text: str = "") -> None:
    """Draws an arrow to the right, or down if the second box is below the first."""
    down = end.get_y() < start.get_y()
    middle = start.get_x() + _BOX[0] / 2
    if down:
        ends = (middle, start.get_y()), (middle, end.get_y() + _BOX[1])
    else:
        height = start.get_y() + _BOX[1] / 2
        ends = (start.get_x() + _BOX[0], height), (end.get_x(), height)
        ax.text((ends[0][0] + ends[1][0]) / 2, height + 0.7, text, ha="center", color=style.MUTED)
    ax.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=11, color=style.MUTED, shrinkA=3, shrinkB=3))


def save(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """Draws a picture and writes it on white, since the README is read on dark pages as well.

    Args:
      name: key of `PICTURES`.
      folder: of the file.

    Returns:
      The file.
    """
    (path,) = style.save(PICTURES[name](), folder / name, formats=("svg",), opaque=("svg",), outlines=True)
    return path


if __name__ == "__main__":
    for picture in PICTURES:
        save(picture)
