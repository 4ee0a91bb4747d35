"""Experiments that train in a second on a part of the real digits, built without gin."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.config.iterative_pruning import IterativePruningSettings
from sparse_lib.experiment.config.mask_updates import PruningSettings, UpdaterSettings
from sparse_lib.experiment.config.masks import MaskSettings, OneShotSettings
from sparse_lib.experiment.config.network import MetaInitSettings, NetworkSettings
from sparse_lib.experiment.config.optimizer import OptimizerSettings
from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.data import Dataset, DataSettings, Split, load_dataset
from sparse_lib.experiment.networks import MLP, LeNet5
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import plan_run

SIZES = {
    "mlp": MLP(hidden_sizes=(12, 8)),
    "lenet5": LeNet5(hidden_sizes=(2, 3, 10, 8)),
}
TRAINING = {
    "total_steps": 24,
    "batch_size": 16,
    "val_batch_size": 40,
    "log_freq": 8,
    "save_freq": 12,
    "jit_compile": False,
}
OPTIMIZER = {"name": "momentum", "learning_rate": 0.1, "momentum": 0.9}


@functools.cache
def dataset() -> Dataset:
    digits = load_dataset(DataSettings(name="digits"))

    def part(split: Split, size: int) -> Split:
        return Split(split.images[:size], split.labels[:size])

    return Dataset("tiny", part(digits.train, 200), part(digits.validation, 60), part(digits.test, 50), num_classes=10)


def experiment(name: str = "mlp", *, initializer: Any = None, sizes: Any = None, **settings: Any) -> Experiment:
    """`experiment("mlp", masks={"sparsity": 0.8}, training={"seed": 3})` sets these and leaves the rest tiny."""

    def of(kind: Any, group: str, default: dict[str, Any] | None = None) -> Any:
        return kind(**{**(default or {}), **settings.pop(group, {})})

    made = Experiment(
        dataset=settings.pop("dataset", None) or dataset(),
        training=of(TrainingSettings, "training", TRAINING),
        network=of(NetworkSettings, "network", {"network_name": name}),
        sizes=sizes or SIZES[name],
        masks=of(MaskSettings, "masks"),
        oneshot=of(OneShotSettings, "oneshot", {"examples": 64}),
        pruning=of(PruningSettings, "pruning"),
        iterative_pruning=of(IterativePruningSettings, "iterative_pruning"),
        mask_updater=of(UpdaterSettings, "mask_updater"),
        optimizer=of(OptimizerSettings, "optimizer", OPTIMIZER),
        metainit=of(MetaInitSettings, "metainit", {"steps": 3}),
        initializer=initializer,
    )
    assert not settings, f"{list(settings)} are no settings"
    return made


def config(of: Experiment) -> str:
    """A text that differs where two experiments do."""
    fields = [f.name for f in dataclasses.fields(of) if f.name != "dataset"]
    return "".join(f"{name} = {getattr(of, name)}\n" for name in fields)


def train(of: Experiment, directory: pathlib.Path, **options: Any) -> dict[str, Any]:
    return run.train(plan_run(of), directory, config(of), **options)


def lines(directory: pathlib.Path, name: str = files.METRICS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / name).read_text().splitlines()]
