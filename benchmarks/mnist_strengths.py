"""How strongly the images of `mnist_large` may be distorted: test accuracies of LeNet5 by strength.

  python -m benchmarks.mnist_strengths --out=runs/strengths

For every strength it makes 60,000 images of the 3,500 originals, trains a dense LeNet5 by the protocol of arXiv
2010.03533, prunes one to 95%, and trains from its masks and a dense initialisation (scratch). The paper reports 99.2%
and 97.0% on MNIST. A finished run is not repeated. `--modes dense --steps=3000` gives a first impression.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from sparse_lib._utils.atomic import atomic_path
from sparse_lib._utils.tables import text_table
from sparse_lib.experiment.data.sources.distortion import Recipe, make_arrays
from sparse_lib.experiment.data.sources.mnist_large import RECIPE, read_originals
from sparse_lib.experiment.jobs import protocol
from sparse_lib.experiment.jobs.stages import Job, Stage
from sparse_lib.experiment.storage import files

# Factors on all distortions of `digits_large`, whose largest angle is 9 degrees.
STRENGTHS = (0.5, 1.0, 1.5, 2.0)
MODES = ("dense", "prune", "scratch")
STEPS = 11719
# Names of the splits in a file of arrays.
_SUFFIXES = {"train": "train", "validation": "val", "test": "test"}
# A run below has not left the plateau of chance (fraction).
STARTED = 0.3


def scale_recipe(strength: float) -> Recipe:
    """Multiplies all distortions of `digits_large` by a factor."""
    base = Recipe()
    names = ("rotation", "scale", "shear", "shift", "elastic")
    return dataclasses.replace(RECIPE, **{name: strength * getattr(base, name) for name in names})


def write_images(path: pathlib.Path, recipe: Recipe) -> None:
    """Writes the images of a recipe as a file for `data.name`, unless it is there."""
    if path.exists():
        return
    arrays = make_arrays(read_originals(), recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {f"{kind}_{new}": arrays[f"{kind}_{old}"] for old, new in _SUFFIXES.items() for kind in "xy"}
    with atomic_path(path) as temporary:
        np.savez(temporary, **named)  # type: ignore[arg-type]


def make_stages(
    out: pathlib.Path, strengths: Sequence[float], seeds: int, steps: int, modes: Sequence[str] = MODES
) -> list[Stage]:
    """Returns a run of every mode with every seed on every strength; each scratch run has the masks of its own seed."""
    out = out.resolve()
    return [
        protocol.make_training(
            out,
            _name(strength, seed, mode),
            f"configs/{mode}.gin",
            shared=[f"data.name='{_images(out, strength)}'", f"training.total_steps={steps}", "training.log_freq=100"],
            masks_of=_name(strength, seed, "prune") if mode == "scratch" else None,
            seed=seed,
            steps=steps,
        )
        for strength in strengths
        for seed in range(seeds)
        for mode in modes
    ]


def _name(strength: float, seed: int, mode: str) -> str:
    return f"strength{strength:g}/seed{seed}/{mode}"


def _images(out: pathlib.Path, strength: float) -> pathlib.Path:
    return out / f"strength{strength:g}" / "images.npz"


def _describe_run(directories: Sequence[pathlib.Path]) -> str:
    accuracies = [json.loads((d / files.RESULT).read_text())["test_accuracy"] for d in directories]
    started = sum(accuracy > STARTED for accuracy in accuracies)
    return f"{' '.join(f'{a:.4f}' for a in accuracies)} ({started} of {len(accuracies)} started)"


def main() -> None:
    """Trains the runs and prints their test accuracies."""
    parser = argparse.ArgumentParser(description="Strengths of the distortion of mnist_large")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/strengths"))
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    out: pathlib.Path = arguments.out.resolve()
    for strength in arguments.strengths:
        write_images(_images(out, strength), scale_recipe(strength))
    stages = make_stages(out, arguments.strengths, arguments.seeds, arguments.steps, arguments.modes)
    Job("strengths", stages, out / "logs", cwd=protocol.ROOT).run()
    rows = [
        [f"{strength:g}"]
        + [_describe_run([out / _name(strength, s, mode) for s in range(arguments.seeds)]) for mode in arguments.modes]
        for strength in arguments.strengths
    ]
    print(text_table([["strength", *arguments.modes]], rows))


if __name__ == "__main__":
    main()
