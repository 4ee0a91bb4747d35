"""FLOPs and sizes: published tables recomputed by both counting rules, and any network layer by layer.

  python -m analysis.flops [--table=NAME ...] [--out=DIR]
  python -m analysis.flops --gin_config=FILE ... [--gin_bindings=BINDING ...] [--image=224x224x3] [--classes=1000]
                           [--rule=honest|micronet] [--out=DIR]

Without --gin_config it prints the tables of the RigL paper and of the README of its code. With it, it prints the costs
of the network and masks that the configuration describes, without loading data.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from sparse_lib._utils.tables import text_table
from sparse_lib.experiment.command_line import cli

TABLES = {
    "resnet50": "ResNet-50, README of google-research/rigl: RigL by the published rule, as printed, and honestly",
    "mobilenet_v1": "MobileNet-v1, the same; its sparsity is over the layers that are not kept dense",
    "notebook": "MobileNet-v1, notebook of google-research/rigl: by the published rule, and as printed",
    "methods": "ResNet-50, RigL paper, figure 2: by the published rule, and as printed",
    "widths": "Widths of small dense and big sparse networks: of the notebooks, and the nearest in thousandths",
}
_WORDS = ("masks", "network", "kind", "method", "layer")
_ODDITY = "oddity"
# Steps at which the sparsity of a pruned network is sampled (count).
_PARTS = 1000


def _format_ratio(value: float) -> str:
    """Formats FLOPs relative to dense with one digit more than the papers print, or large absolute FLOPs."""
    return f"{value:.2e}" if value > 1e6 else f"{value:.3f}x"


def _format_as_published(value: float) -> str:
    """Formats relative or absolute FLOPs with the digits of the publication."""
    return f"{value:.3g}" if value > 1e6 else f"{value:g}x"


_FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("sparsity", "width_notebook", "nearest"), "{:g}".format),
    **dict.fromkeys(("size", "nearest_size"), "{:.4f}".format),
    **dict.fromkeys(("weights", "active", "flops", "dense_flops", "bytes"), "{:,.0f}".format),
    "length": "{:g}x".format,
}


def _format_of(column: str) -> Callable[[Any], str]:
    if column in _FORMATS:
        return _FORMATS[column]
    if column.startswith("mega"):
        return "{:.3f}".format
    return _format_as_published if column.endswith(("readme", "paper")) else _format_ratio


def format_table(title: str, table: Any) -> str:
    """Formats a table as plain text, with oddities of rows as footnotes.

    Args:
      title: first line.
      table: data frame.

    Returns:
      Lines. A column such as `training_readme` is headed `readme` and follows its own.
    """
    names = list(table.columns.drop(_ODDITY, errors="ignore"))
    labels = [n.rpartition("_")[2] if n.startswith(("training_", "inference_", "mega")) else n for n in names]
    odd = table.get(_ODDITY, [""] * len(table))
    notes = list(dict.fromkeys(filter(None, odd)))
    marks = [f"[{notes.index(note) + 1}]" if note else "" for note in odd]
    columns = [[value if n in _WORDS else _format_of(n)(value) for value in table[n]] for n in names]
    left = [place for place, name in enumerate(names) if name in _WORDS]
    headers = [[*(label.replace("_", " ") for label in labels), ""]]
    lines = text_table(headers, list(zip(*columns, marks, strict=True)), left=[*left, len(names)])
    footnotes = [f"[{number}] {note}" for number, note in enumerate(notes, start=1)]
    return "\n".join([title, "", lines, *footnotes, ""])


def _network_tables(options: argparse.Namespace) -> dict[str, Any]:
    """Cost tables of the network that a gin configuration describes, by title."""
    import keras

    from analysis.flops import cost_tables
    from sparse_lib.experiment.config import gin_files, gin_names

    gin_files.parse(options.gin_config, options.gin_bindings)
    named, masks, gradual = gin_names.network(), gin_names.masks(), gin_names.pruning()
    prune = gradual.build()
    widths = gin_names.NETWORKS[named.network_name]()
    sizes = gin_names.small_dense().fit(named, widths, options.image, options.classes)
    with keras.StatelessScope():
        model = named.build(options.image, options.classes, 0, sizes)
        kernels = named.kernels(model)
        counts = masks.counts(kernels) if masks.sparsity else {}
        layers = cost_tables.layers(model, {kernels[name].path: n for name, n in counts.items()}, options.rule)
        pruning = None
        if prune is not None:
            total = gin_names.training().total_steps
            steps = (total * part // _PARTS for part in range(_PARTS))
            target = cast("Callable[[int], Any]", prune.sparsity)
            begun = (float(target(step)) if step >= gradual.begin_step else 0.0 for step in steps)
            pruning = cost_tables.pruning_flops(model, kernels, begun)
    summed = layers.iloc[-1]
    frequency = gin_names.mask_updater().update_freq or 100
    training = cost_tables.training(summed["dense_flops"], summed["flops"], frequency, pruning)
    return {f"layers of {model.name}, {options.rule} rule": layers, "training on one example, by method": training}


def _parse_image(words: str) -> tuple[int, ...]:
    sides = tuple(int(side) for side in words.split("x"))
    if len(sides) != 3 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{words!r} is not of the form HxWxC, such as 32x32x3")
    return sides


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analysis.flops", description="Prints FLOPs and sizes.")
    parser.add_argument("--table", action="append", choices=TABLES, help="a published table; all of them by default")
    parser.add_argument("--gin_config", action="append", default=[], metavar="FILE", help="describes a network")
    parser.add_argument("--gin_bindings", action="append", default=[], metavar="BINDING", help="override the files")
    parser.add_argument(
        "--image", type=_parse_image, default=(224, 224, 3), metavar="HxWxC", help="input of that network"
    )
    parser.add_argument("--classes", type=int, default=1000, help="number of its logits")
    parser.add_argument("--rule", choices=("honest", "micronet"), default="honest", help="counting rule")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="also write the tables there, as CSV")
    options = parser.parse_args(arguments)
    if options.table and (options.gin_config or options.gin_bindings):
        parser.error("--table names a published table, --gin_config describes a network; give one of them.")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables that the command line names.

    Args:
      arguments: command line; None takes that of the process.

    Returns:
      Exit status, see `cli.exit_status`.
    """
    options = _parse(arguments)
    cli.import_tensorflow()
    return cli.exit_status(lambda: _print_tables(options))


def _print_tables(options: argparse.Namespace) -> None:
    from analysis.flops import cost_tables
    from sparse_lib.experiment.storage import files

    if options.gin_config or options.gin_bindings:
        tables = {name.split(" ")[0]: (name, table) for name, table in _network_tables(options).items()}
    else:
        makers = {
            "resnet50": lambda: cost_tables.readme("resnet50"),
            "mobilenet_v1": lambda: cost_tables.readme("mobilenet_v1"),
            "notebook": cost_tables.notebook,
            "methods": cost_tables.methods,
            "widths": cost_tables.widths,
        }
        tables = {name: (TABLES[name], makers[name]()) for name in options.table or TABLES}
    for name, (title, table) in tables.items():
        sys.stdout.write(f"{format_table(title, table)}\n")
        if options.out:
            files.write_text(options.out / f"{name}.csv", table.to_csv(index=False))


if __name__ == "__main__":
    sys.exit(main())
