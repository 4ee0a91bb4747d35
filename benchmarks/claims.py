r"""What the gradient-flow paper says of lottery tickets and RigL, on the embedded digits, with three seeds.

  python -m benchmarks.claims --out=runs/claims

For every seed it prunes an MLP to 98% (or a LeNet5 to 95%), trains from that run's masks, and prints what
docs/results.md quotes. A finished run is not repeated.
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np

from sparse_lib.experiment.jobs.early_gradient import early_gradient_norm
from sparse_lib.experiment.jobs.stages import Job, Stage, last_step
from sparse_lib.experiment.storage import files

ROOT = pathlib.Path(__file__).parents[1]
SEEDS = (0, 1, 2)
# The published length and schedules; more log steps, so that there is an early part to speak of.
STEPS = 11719
LENGTH = ["training.log_freq=100", f"training.save_freq={STEPS}"]
PLUS = ["network.weight_init_method='unit_scaled'"]
# Mode: configuration file, and what it changes there.
MODES: dict[str, tuple[str, list[str]]] = {
    "prune": ("prune", []),
    "lottery": ("lottery", []),
    "scratch": ("scratch", []),
    "scratch_plus": ("scratch_plus", []),
    "set_plus": ("set_from_prune", PLUS),
    "rigl_plus": ("rigl_from_prune", PLUS),
}
# The part of training that counts as early (fraction).
EARLY = 0.1


def stages(out: pathlib.Path, configs: str) -> list[Stage]:
    """Every mode with every seed; the first mode prunes, the others take its masks.

    Args:
      out: where the runs lie.
      configs: `configs` (LeNet5) or `mlp_configs`.

    Returns:
      One stage a run.
    """
    out = out.resolve()
    return [_training(out, configs, seed, mode) for seed in SEEDS for mode in MODES]


def _training(out: pathlib.Path, configs: str, seed: int, mode: str) -> Stage:
    (config, changes), directory, pruned = MODES[mode], out / f"seed{seed}" / mode, out / f"seed{seed}" / "prune"
    bindings = [*LENGTH, *changes]
    if mode != "prune":
        bindings += [f"PRUNED_RUN='{pruned}'", f"PRUNED_START='{pruned}/ckpt-0'"]
    command = ["train.py", f"--logdir={directory}", f"--seed={seed}", f"--gin_config={configs}/{config}.gin"]
    return Stage(
        f"seed{seed}/{mode}",
        (*command, *(f"--gin_bindings={binding}" for binding in bindings)),
        (directory / files.RESULT).exists,
        after=() if mode == "prune" else (f"seed{seed}/prune",),
        work=STEPS,
        done=lambda: last_step(directory),
    )


def summary(directory: pathlib.Path, pruned: pathlib.Path) -> dict[str, Any]:
    """What is claimed of one run.

    Args:
      directory: of the run.
      pruned: of the pruning run whose masks it has.

    Returns:
      Accuracy (fraction), disagreement with the pruned network (fraction of the test images), early gradient norm, and
      the mean change of the gradient norm over the early mask updates.
    """
    predicted = [np.argmax(np.load(d / files.PREDICTIONS)["logits"], -1) for d in (directory, pruned)]
    metrics = files.JsonLines(directory / files.METRICS).read()
    updates = [u for u in files.JsonLines(directory / files.MASK_UPDATES).read() if u["step"] <= EARLY * STEPS]
    changes = [u["gradient_norm_after"] - u["gradient_norm_before"] for u in updates]
    return {
        "test_accuracy": json.loads((directory / files.RESULT).read_text())["test_accuracy"],
        "disagreement": float(np.mean(predicted[0] != predicted[1])),
        "early_gradient_norm": early_gradient_norm(metrics, EARLY),
        "gradient_norm_change": float(np.mean(changes)) if changes else None,
    }


def study(out: pathlib.Path, configs: str) -> dict[str, list[dict[str, Any]]]:
    """Trains everything and summarises it.

    Args:
      out: where the runs lie.
      configs: `configs` (LeNet5) or `mlp_configs`.

    Returns:
      For each mode one summary a seed.
    """
    Job("claims", stages(out, configs), out / "logs", cwd=ROOT).run()
    return {
        mode: [summary(out / f"seed{seed}" / mode, out / f"seed{seed}" / "prune") for seed in SEEDS] for mode in MODES
    }


def main() -> None:
    """Runs the study and prints its table."""
    parser = argparse.ArgumentParser(description="The paper's claims on the embedded digits")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/claims"))
    parser.add_argument("--configs", choices=("configs", "mlp_configs"), default="mlp_configs")
    arguments = parser.parse_args()
    results = study(arguments.out, arguments.configs)
    print(f"{'mode':<14} {'test accuracy':>16} {'disagreement':>16} {'early |g|':>16} {'change of |g|':>16}")
    for mode, rows in results.items():
        cells = []
        for key in ("test_accuracy", "disagreement", "early_gradient_norm", "gradient_norm_change"):
            values = [row[key] for row in rows if row[key] is not None]
            cells.append(f"{np.mean(values):.4f} ± {np.std(values):.4f}" if values else "")
        print(f"{mode:<14} " + " ".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
