"""A ticket by hand, on one compiled model, ends where the suite's lottery run ends."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib.experiment.data import batch_indices
from sparse_lib.experiment.storage import sources
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training.build import build_model
from tests.experiment import tiny

PRUNING = {"mode": "prune", "final_sparsity": 0.8, "begin_step": 4, "end_step": 16, "frequency": 4}
STEPS = tiny.TRAINING["total_steps"]


def suites_batches() -> tf.data.Dataset:
    """The training batches of a run with seed 0, in its order."""
    train, size = tiny.dataset().train, tiny.TRAINING["batch_size"]
    rows = batch_indices(seed=0, first_step=0, steps=STEPS, batch_size=size, n=len(train))
    return tf.data.Dataset.from_tensor_slices((train.images[rows], train.labels[rows]))


@pytest.mark.parametrize("step", [0, pytest.param(12, marks=pytest.mark.slow)])
def test_a_rewound_model_trains_like_the_lottery_run(step, tmp_path):
    pruned = tmp_path / "pruned"
    tiny.train(tiny.experiment(pruning=PRUNING), pruned)
    start = str(pruned / f"ckpt-{step}")
    ticket = tiny.experiment(network={"mask_init_path": str(pruned), "weight_init_path": start})
    tiny.train(ticket, tmp_path / "lottery")

    model = build_model(ticket)
    masks = sparse_lib.sparsify(model, 0.0)
    inner = ticket.optimizer.build(ticket.optimizer.rate(STEPS))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(sparse_lib.SparseOptimizer(inner, masks), loss)
    sources.load(start, model)
    snapshot = sparse_lib.Snapshot(model)
    model.fit(suites_batches(), shuffle=False, verbose=0)
    masks.assign(sparse_lib.sparsify(build_model(ticket), masks=pruned).values())
    sparse_lib.rewind(model, snapshot)
    model.fit(suites_batches(), shuffle=False, verbose=0)

    last = Reader(tmp_path / "lottery")
    assert last.prefix.endswith(f"ckpt-{STEPS}")
    for variable in model.trainable_variables:
        expected = last.read("model", variable.path)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-6)
    for name, mask in zip(masks.names, masks.values(), strict=True):
        np.testing.assert_array_equal(mask, last.read("masks", name))
