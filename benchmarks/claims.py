"""Claims of the gradient-flow paper on lottery tickets and RigL, on the embedded digits with three seeds.

  python -m benchmarks.claims --out=runs/claims

For every seed it prunes an MLP to 98% (or a LeNet5 to 95%), trains from the masks of that run, and prints the table of
docs/results.md. A finished run is not repeated.
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np

from sparse_lib._utils.tables import text_table
from sparse_lib.experiment.jobs import protocol
from sparse_lib.experiment.jobs.early_gradient import early_gradient_norm
from sparse_lib.experiment.jobs.stages import Job, Stage
from sparse_lib.experiment.storage import files

SEEDS = (0, 1, 2)
# The published length and schedules, with more log steps in the early part of training.
STEPS = 11719
LENGTH = ["training.log_freq=100", f"training.save_freq={STEPS}"]
PLUS = ["network.weight_init_method='unit_scaled'"]
# Gin file of each mode, and bindings on top of it.
MODES: dict[str, tuple[str, list[str]]] = {
    "prune": ("prune", []),
    "lottery": ("lottery", []),
    "scratch": ("scratch", []),
    "scratch_plus": ("scratch_plus", []),
    "set_plus": ("set_from_prune", PLUS),
    "rigl_plus": ("rigl_from_prune", PLUS),
}
# Early part of training (fraction).
EARLY = 0.1


def make_stages(out: pathlib.Path, configs: str) -> list[Stage]:
    """Returns a training run of every mode with every seed; the first mode prunes, the others take its masks.

    Args:
      out: directory of the runs.
      configs: `configs` (LeNet5) or `mlp_configs`.
    """
    return [_make_training(out.resolve(), configs, seed, mode) for seed in SEEDS for mode in MODES]


def _make_training(out: pathlib.Path, configs: str, seed: int, mode: str) -> Stage:
    config, bindings = MODES[mode]
    return protocol.make_training(
        out,
        f"seed{seed}/{mode}",
        f"{configs}/{config}.gin",
        shared=[*LENGTH, *bindings],
        masks_of=None if mode == "prune" else f"seed{seed}/prune",
        seed=seed,
        steps=STEPS,
    )


def summarize(directory: pathlib.Path, pruned: pathlib.Path) -> dict[str, Any]:
    """Computes the quantities of the claims for one run.

    Args:
      directory: of the run.
      pruned: directory of the pruning run whose masks it has.

    Returns:
      Test accuracy (fraction), disagreement with the pruned network (fraction of the test images), early gradient norm,
      and mean change of the gradient norm over early mask updates.
    """
    predicted = [np.argmax(np.load(d / files.PREDICTIONS)["logits"], -1) for d in (directory, pruned)]
    metrics = files.JsonLines(directory / files.METRICS).read()
    updates = [u for u in files.JsonLines(directory / files.MASK_UPDATES).read() if u["step"] <= EARLY * STEPS]
    changes = [u["gradient_norm_after"] - u["gradient_norm_before"] for u in updates]
    return {
        "test_accuracy": json.loads((directory / files.RESULT).read_text())["test_accuracy"],
        "disagreement": float(np.mean(predicted[0] != predicted[1])),
        "early_gradient_norm": early_gradient_norm(metrics),
        "gradient_norm_change": float(np.mean(changes)) if changes else None,
    }


def run_study(out: pathlib.Path, configs: str) -> dict[str, list[dict[str, Any]]]:
    """Trains unfinished runs and summarizes all.

    Args:
      out: directory of the runs.
      configs: `configs` (LeNet5) or `mlp_configs`.

    Returns:
      One summary per seed, by mode.
    """
    Job("claims", make_stages(out, configs), out / "logs", cwd=protocol.ROOT).run()
    return {
        mode: [summarize(out / f"seed{seed}" / mode, out / f"seed{seed}" / "prune") for seed in SEEDS] for mode in MODES
    }


# Heading and key of each column.
_COLUMNS = {
    "test accuracy": "test_accuracy",
    "disagreement": "disagreement",
    "early |g|": "early_gradient_norm",
    "change of |g|": "gradient_norm_change",
}


def _format_values(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values):.4f}" if values else ""


def main() -> None:
    """Runs the study and prints its table."""
    parser = argparse.ArgumentParser(description="The paper's claims on the embedded digits")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/claims"))
    parser.add_argument("--configs", choices=("configs", "mlp_configs"), default="mlp_configs")
    arguments = parser.parse_args()
    rows = []
    for mode, summaries in run_study(arguments.out, arguments.configs).items():
        columns = ([row[key] for row in summaries if row[key] is not None] for key in _COLUMNS.values())
        rows.append([mode, *map(_format_values, columns)])
    print(text_table([["mode", *_COLUMNS]], rows))


if __name__ == "__main__":
    main()
