"""Run directories as train.py writes them, made of numbers that the tests choose."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

CLASSES = 4
EXAMPLES = 40
LABELS = np.arange(EXAMPLES) % CLASSES
MODES: dict[str, list[str]] = {
    "dense": [],
    "small_dense": ["mlp.hidden_sizes = (8, 8)"],
    "prune": ["pruning.mode = 'prune'", "pruning.final_sparsity = 0.9", "pruning.scope = 'layer'"],
    "lottery": ["network.mask_init_path = '{prune}'", "network.weight_init_path = '{prune}/ckpt-0'"],
    "scratch": ["network.mask_init_path = '{prune}'"],
    "scratch_plus": ["network.mask_init_path = '{prune}'", "network.weight_init_method = 'unit_scaled'"],
    "set_plus": [
        "network.mask_init_path = '{prune}'",
        "network.weight_init_method = 'unit_scaled'",
        "mask_updater.update_alg = 'set'",
    ],
    "rigl_plus": [
        "network.mask_init_path = '{prune}'",
        "network.weight_init_method = 'unit_scaled'",
        "mask_updater.update_alg = 'rigl'",
    ],
}
Write = Callable[..., pathlib.Path]


def logits_of(answers: Sequence[int], confidence: float = 4.0) -> np.ndarray:
    """Logits that choose the answers."""
    return confidence * np.eye(CLASSES, dtype=np.float32)[np.asarray(answers)]


def with_errors(wrong: Sequence[int]) -> np.ndarray:
    """Logits that are right but for some examples, where they take the next class."""
    answers = LABELS.copy()
    answers[list(wrong)] = (answers[list(wrong)] + 1) % CLASSES
    return logits_of(answers)


def jsonl(records: Sequence[Mapping]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def write_run(tmp_path: pathlib.Path) -> Write:
    """Returns the writer of run directories below tmp_path / "runs".

    `write_run("lottery", 0)` is a finished run of that mode and seed; arguments choose its numbers.
    """

    def write(
        mode: str,
        seed: int,
        *,
        name: str | None = None,
        pruned: str = "{seed}/prune",
        gradient_norm: Sequence[float] = (1.0, 1.0, 1.0),
        changes: Sequence[float] = (),
        first_update: int = 5,
        accuracy: float = 0.9,
        wrong: Sequence[int] | None = None,
        bindings: Sequence[str] = (),
        finished: bool = True,
        outcome: str = "trained",
        left_plateau_at: int | None = 5,
    ) -> pathlib.Path:
        top = tmp_path / "runs"
        directory = top / (name or f"{seed}/{mode}")
        directory.mkdir(parents=True)
        parent = top / pruned.format(seed=seed)
        common = ["network.network_name = 'mlp'", "data.name = 'digits'", f"training.seed = {seed}"]
        lines = [*common, "training.total_steps = 100", *MODES[mode], *bindings]
        config = "\n".join(line.format(prune=parent) for line in lines)
        (directory / "operative_config.gin").write_text(config)
        steps = [5 * place for place in range(len(gradient_norm))]
        sparsity = 0.0 if "dense" in mode else 0.9
        records = [
            {
                "step": step,
                "gradient_norm": norm,
                "gradient_norm/dense1/kernel": norm / 2,
                "train_loss": 1.0 / (1 + step),
                "test_accuracy": accuracy,
                "sparsity": sparsity,
                "sparsity/dense1/kernel": sparsity,
                "sparsity/dense2/kernel": sparsity,
                "mask_churn": 0.1 * bool(changes),
                "exploration_rate": 0.2,
            }
            for step, norm in zip(steps, gradient_norm, strict=True)
        ]
        (directory / "metrics.jsonl").write_text(jsonl(records))
        updates = [
            {
                "step": first_update * place,
                "grown": 3,
                "dropped": 3,
                "gradient_norm_before": 1.0,
                "gradient_norm_after": 1.0 + change,
            }
            for place, change in enumerate(changes, 1)
        ]
        if updates:
            (directory / "mask_updates.jsonl").write_text(jsonl(updates))
        if finished:
            result = {
                "test_accuracy": accuracy if outcome != "diverged" else None,
                "validation_accuracy": accuracy if outcome != "diverged" else None,
                "outcome": outcome,
                "left_plateau_at": left_plateau_at,
                "test_loss": 0.3,
                "steps": 100,
                "sparsity": sparsity,
                "active_parameters": 100,
                "inference_flops": 1000 if sparsity else 10000,
                "training_flops": 3000 if sparsity else 30000,
                "versions": {"keras": "3"},
            }
            (directory / "result.json").write_text(json.dumps(result))
            if wrong is not None:
                np.savez(directory / "predictions.npz", logits=with_errors(wrong), labels=LABELS)
        return directory

    return write
