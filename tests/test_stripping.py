"""What watches a sparse model, and what is left of it after `strip`."""

import pickle
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

import sparse_lib
from sparse_lib import SparseOptimizer

layers = keras.layers
X, Y = np.eye(8, dtype="float32"), np.arange(8) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network() -> keras.Model:
    return keras.Sequential([keras.Input((8,)), layers.Dense(6, "relu"), layers.Dense(3)])


def messages(call) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught if "Nothing keeps" in str(warning.message)]


@pytest.mark.parametrize("by_keyword", [True, False])
def test_a_plain_optimizer_after_sparsify_warns_once(by_keyword):
    model = network()
    sparse_lib.sparsify(model, 0.5)
    arguments, settings = ((), {"optimizer": "adam", "loss": LOSS}) if by_keyword else (("adam", LOSS), {})
    with pytest.warns(UserWarning, match=r"Nothing keeps sequential\S* sparse .* SparseOptimizer\(optimizer, masks\)"):
        model.compile(*arguments, **settings)
    assert not messages(lambda: model.compile("adam", LOSS))
    assert not messages(lambda: model.train_on_batch(X, Y))


def test_a_plain_optimizer_from_before_warns_when_it_trains():
    model = network()
    model.compile("adam", LOSS)
    sparse_lib.transfer_masks(sparse_lib.sparsify(network(), 0.5), model)
    assert len(messages(lambda: (model.train_on_batch(X, Y), model.fit(X, Y, verbose=0)))) == 1


def test_what_keeps_a_model_sparse_or_only_evaluates_it_does_not_warn():
    model = network()
    masks = sparse_lib.sparsify(model, 0.5)

    def use():
        model.compile(loss=LOSS)
        model.evaluate(X, Y, verbose=0)
        model.compile(SparseOptimizer(keras.optimizers.Adam(), masks), LOSS)
        model.fit(X, Y, verbose=0)

    assert not messages(use)


def test_a_watched_model_can_be_copied_and_saved(tmp_path):
    model = network()
    sparse_lib.sparsify(model, 0.5)
    for copy in (keras.models.clone_model(model), pickle.loads(pickle.dumps(model))):
        assert not messages(lambda copy=copy: copy.compile("adam", LOSS))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(X), model(X))


@pytest.mark.parametrize("name", ["Adam", "Nadam"])
def test_a_stripped_model_goes_on_as_a_plain_one(name, tmp_path):
    """The optimizer inside keeps its state, in the model and in a file that Keras alone reads."""
    model = network()
    masks = sparse_lib.sparsify(model, 0.5)
    inner = getattr(keras.optimizers, name)(0.01, use_ema=name == "Adam")
    model.compile(SparseOptimizer(inner, masks), LOSS, metrics=["accuracy"])
    model.fit(X, Y, batch_size=4, verbose=0)
    expected = network()
    expected.set_weights(model.get_weights())
    plain = getattr(keras.optimizers, name)(0.01, use_ema=name == "Adam")
    plain.build(expected.trainable_variables)
    plain.set_weights([v.numpy() for v in inner.variables])
    if name == "Nadam":
        # Keras does not list it among the variables.
        vars(plain)["_u_product"].assign(vars(inner)["_u_product"].numpy())
    expected.compile(plain, LOSS, metrics=["accuracy"])
    assert sparse_lib.strip(model) is model
    assert type(model.optimizer) is type(inner)
    model.save(tmp_path / "plain.keras")
    assert not messages(lambda: model.fit(X, Y, batch_size=4, verbose=0, shuffle=False))
    expected.fit(X, Y, batch_size=4, verbose=0, shuffle=False)
    for mine, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    again = keras.models.load_model(tmp_path / "plain.keras")
    assert (type(again.optimizer), int(again.optimizer.iterations)) == (type(inner), 2)
    assert set(again.evaluate(X, Y, verbose=0, return_dict=True)) == {"loss", "accuracy"}


@pytest.mark.slow
def test_a_stripped_file_needs_no_library(tmp_path):
    model = network()
    masks = sparse_lib.sparsify(model, 0.5)
    model.compile(SparseOptimizer(keras.optimizers.Adam(), masks), LOSS)
    model.fit(X, Y, verbose=0)
    sparse_lib.strip(model).save(tmp_path / "plain.keras")
    code = (
        "import sys, keras; model = keras.models.load_model(sys.argv[1]); "
        "print(type(model.optimizer).__name__, int(model.optimizer.iterations), 'sparse_lib' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "plain.keras")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout.split() == ["Adam", "1", "False"]


def test_models_without_a_sparse_optimizer_are_left_as_they_are():
    model = network()
    weights = model.get_weights()
    assert sparse_lib.strip(model) is model
    sparse_lib.sparsify(model, 0.0)
    sparse_lib.strip(model)
    model.compile("sgd", LOSS)
    optimizer = model.optimizer
    assert sparse_lib.strip(model).optimizer is optimizer
    for mine, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ValueError, match="first argument is a Keras model"):
        sparse_lib.strip("model")
