"""A stand-in for train.py, whose accuracy is a function of its bindings."""

import pathlib

# Leaves what a run leaves. The validation accuracy is best at a drop fraction of 0.3.
SCRIPT = """
import json, pathlib, sys
words = [word.removeprefix("--").split("=", 1) for word in sys.argv[1:]]
flags = dict(words)
bound = dict(value.split("=", 1) for name, value in words if name == "gin_bindings")
run, seed = pathlib.Path(flags["logdir"]), int(flags["seed"])
run.mkdir(parents=True, exist_ok=True)
with open(run.parent.parent / "history", "a") as history:
    history.write(f"{run.parent.name}/{run.name}\\n")
accuracy = 0.9 - (float(bound.get("mask_updater.init_drop_fraction", 0.3)) - 0.3) ** 2 + 0.001 * seed
records = [{"step": step, "validation_accuracy": accuracy * step / 100} for step in (0, 50, 100)]
(run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\\n" for record in records))
result = {"test_accuracy": accuracy - 0.1, "sparsity": float(bound.get("SPARSITY", 0.95))}
(run / "result.json").write_text(json.dumps(result))
"""


def write_script(folder: pathlib.Path) -> str:
    """Returns the path of the script."""
    path = folder / "fake_train.py"
    path.write_text(SCRIPT)
    return str(path)


def read_history(out: pathlib.Path) -> list[str]:
    """Returns the runs that were made, in the order of their starts."""
    return (out / "history").read_text().splitlines()
