"""Keras' public optimizer interface on a SparseOptimizer: settings, averages, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import updaters
from sparse_lib.masks import Masks
from sparse_lib.optimizer import SparseOptimizer

SGD, AdamW = keras.optimizers.SGD, keras.optimizers.AdamW

# How the wrapper meets each public attribute of a Keras optimizer: by the inner optimizer's, by its own, by a refusal.
DECISIONS = {
    "weight_decay": "inner",
    "clipnorm": "inner",
    "clipvalue": "inner",
    "global_clipnorm": "inner",
    "use_ema": "inner",
    "ema_momentum": "inner",
    "ema_overwrite_frequency": "inner",
    "gradient_accumulation_steps": "inner",
    "learning_rate": "inner",
    "iterations": "inner",
    "exclude_from_weight_decay": "inner",
    "finalize_variable_values": "inner, then masked",
    "variables": "inner and own",
    "set_weights": "inner and own",
    "save_own_variables": "inner and own",
    "load_own_variables": "inner and own",
    "get_config": "inner and own",
    "apply": "own",
    "apply_gradients": "own",
    "build": "own",
    "built": "own",
    "name": "own",
    # Makers of variables, which `build` uses for the state of updaters.
    "add_variable": "own",
    "add_variable_from_reference": "own",
    "add_optimizer_variables": "own",
    "assign": "own",
    "assign_add": "own",
    "assign_sub": "own",
    # 1, since a LossScaleOptimizer goes around the wrapper.
    "loss_scale_factor": "own",
    "scale_loss": "own",
    "from_config": "refused",
    "update_step": "refused",
    "stateless_apply": "refused",
}


def make(inner, updater=None, sparsity: float = 0.5) -> tuple[keras.Model, SparseOptimizer]:
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(4, bias_initializer="ones", name="dense")
    model = keras.Sequential([keras.Input((8,)), layer])
    masks = sparse_lib.sparsify(model, sparsity)
    return model, SparseOptimizer(inner, masks, updater)


def zeros(model: keras.Model) -> list[tf.Tensor]:
    return [tf.zeros(v.shape) for v in model.trainable_variables]


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 8)).astype("float32"), rng.normal(size=(32, 4)).astype("float32")


def public(optimizer: keras.optimizers.Optimizer) -> set[str]:
    return {name for name in {*dir(optimizer), *vars(optimizer)} if not name.startswith("_")}


def test_every_public_attribute_of_keras_has_a_decision():
    assert public(keras.optimizers.Optimizer(0.1)) == set(DECISIONS)


@pytest.mark.parametrize("name", [name for name, decision in DECISIONS.items() if decision == "inner"])
def test_settings_are_those_of_the_inner_optimizer(name):
    inner = AdamW(0.1, weight_decay=0.25, clipnorm=3.0, use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=7)
    _, optimizer = make(inner)
    if name == "exclude_from_weight_decay":
        return
    assert np.all(getattr(optimizer, name) == getattr(inner, name))
    values = {"learning_rate": 0.5, "clipvalue": 0.5, "global_clipnorm": 0.5, "use_ema": False}
    if name not in ("iterations", "gradient_accumulation_steps"):
        setattr(optimizer, name, values.get(name, 0.125))
        np.testing.assert_allclose(float(getattr(inner, name)), values.get(name, 0.125))
        np.testing.assert_allclose(float(getattr(optimizer, name)), values.get(name, 0.125))


@pytest.mark.parametrize(
    ("inner", "name", "value"),
    [
        (lambda: SGD(0.1, momentum=0.9), "momentum", 0.25),
        (lambda: SGD(0.1, momentum=0.9), "nesterov", True),
        (lambda: AdamW(0.1), "beta_1", 0.25),
        (lambda: AdamW(0.1), "epsilon", 1.0),
        (lambda: SGD(0.1), "clipvalue", 1e-3),
        (lambda: SGD(0.1), "weight_decay", 0.5),
        (lambda: SGD(0.1), "learning_rate", 0.5),
    ],
)
@pytest.mark.parametrize("after", ["construction", "build"])
def test_a_setting_made_on_the_wrapper_takes_effect(inner, name, value, after):
    """The same as with the plain optimizer, on a mask that is all active."""
    results = []
    for wrap in (False, True):
        model, optimizer = make(inner(), sparsity=0.0)
        if not wrap:
            optimizer = inner()
        if after == "build":
            optimizer.build(model.trainable_variables)
        setattr(optimizer, name, value)
        assert float(getattr(optimizer, name)) == value
        for step in range(3):
            optimizer.apply([(step + 1.0) * v.value for v in model.trainable_variables], model.trainable_variables)
        results.append([v.numpy() for v in model.trainable_variables])
    for plain, wrapped in zip(*results, strict=True):
        np.testing.assert_array_equal(wrapped, plain)


@pytest.mark.parametrize("how", [{"var_names": ["bias"]}, {"var_list": None}])
def test_variables_excluded_from_weight_decay_do_not_decay(how):
    model, optimizer = make(AdamW(0.1, weight_decay=0.5))
    bias = model.layers[0].bias
    optimizer.exclude_from_weight_decay(**({"var_list": [bias]} if "var_list" in how else how))
    before = model.layers[0].kernel.numpy()
    optimizer.apply(zeros(model), model.trainable_variables)
    np.testing.assert_array_equal(bias.numpy(), np.ones(4))
    np.testing.assert_allclose(model.layers[0].kernel.numpy(), before * 0.95, rtol=1e-6)


def test_a_name_that_no_optimizer_has():
    _, optimizer = make(SGD(0.1))
    with pytest.raises(AttributeError, match="no attribute 'weight_deacy'"):
        _ = optimizer.weight_deacy
    assert not hasattr(optimizer, "inner_optimizer")


def replace(name, value):
    return lambda model, optimizer: setattr(optimizer, name, value)


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace("updater", updaters.RigL(end_step=9)), "The updater of a SparseOptimizer cannot be replaced.*a new"),
        (replace("inner", SGD(0.1)), "The inner of a SparseOptimizer cannot be replaced"),
        (replace("masks", Masks([])), "The masks of a SparseOptimizer cannot be replaced"),
        (replace("gradient_accumulation_steps", 2), "growth_gradient=k to average"),
        (replace("loss_scale_factor", 8.0), "belongs around the SparseOptimizer"),
        (lambda m, o: o.update_step(zeros(m)[0], m.trainable_variables[0], 0.1), "call optimizer.apply"),
        (lambda m, o: o.stateless_apply([], [], []), "not supported with the TensorFlow backend"),
        (
            lambda m, o: SparseOptimizer.from_config(o.get_config()),
            r"put the masks on it with sparse_lib.sparsify\(model, masks=path\)",
        ),
        (lambda m, o: o.set_weights([]), r"optimizer.build\(model.trainable_variables\) before|of optimizer.variables"),
    ],
)
def test_what_is_refused(built, wrong, message):
    model, optimizer = make(SGD(0.1))
    if built:
        optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=message):
        wrong(model, optimizer)


def test_averages_cannot_begin_after_build():
    model, optimizer = make(SGD(0.1))
    optimizer.use_ema = True
    optimizer.build(model.trainable_variables)
    assert "average" in optimizer.slots_by_name
    with pytest.raises(ValueError, match="use_ema cannot change once"):
        optimizer.use_ema = False


def test_the_advice_for_another_updater():
    """A new SparseOptimizer with a new inner optimizer goes on with the masks."""
    model, optimizer = make(SGD(0.1))
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(*data(), verbose=0)
    before = optimizer.masks.values()[0].numpy()
    rigl = updaters.RigL(begin_step=0, end_step=9, frequency=1, drop_fraction=0.5)
    model.compile(SparseOptimizer(SGD(0.1), optimizer.masks, rigl), "mse", jit_compile=False)
    model.fit(*data(), batch_size=8, verbose=0)
    optimizer.masks.check()
    assert np.any(optimizer.masks.values()[0].numpy() != before)
    assert optimizer.masks.active() == [int(before.sum())]


def test_set_weights_sets_slots_and_state():
    model, optimizer = make(keras.optimizers.Adam(0.1), updaters.SNFS(end_step=9, frequency=2))
    other, same = make(keras.optimizers.Adam(0.1), updaters.SNFS(end_step=9, frequency=2))
    same.build(other.trainable_variables)
    optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)
    same.set_weights([v.numpy() for v in optimizer.variables])
    for a, b in zip(same.variables, optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    with pytest.raises(ValueError, match="of optimizer.variables: give arrays like them"):
        same.set_weights([v.numpy() for v in optimizer.variables][::-1])


# --- averages ---


@pytest.mark.parametrize("swap_on_epoch", [False, True])
@pytest.mark.parametrize("name", ["rigl", "topkast", "dnw"])
def test_swapped_averages_are_masked(name, swap_on_epoch):
    updater = {
        "rigl": lambda: updaters.RigL(begin_step=1, end_step=90, frequency=2, drop_fraction=0.5),
        "topkast": updaters.TopKAST,
        "dnw": updaters.DNW,
    }[name]()
    model, optimizer = make(SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5), updater)
    model.compile(optimizer, "mse", jit_compile=False)
    kernel, seen = model.layers[0].kernel, []

    def look(logs):
        optimizer.masks.check()
        seen.append(kernel.numpy())

    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch)
    witness = keras.callbacks.LambdaCallback(on_test_begin=look, on_epoch_end=lambda epoch, logs: look(logs))
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, validation_data=(x, y), callbacks=[swap, witness])
    optimizer.masks.check()
    (mask,) = optimizer.masks.values()
    average = optimizer.slots_by_name["average"][0].numpy()
    np.testing.assert_array_equal(average[~mask.numpy()], 0)
    # In the evaluation the averages were in, after it (without swap_on_epoch) the weights.
    assert np.any(seen[-2] != seen[-1]) or swap_on_epoch
    np.testing.assert_allclose(kernel.numpy(), average, atol=1e-6)


def test_averages_of_a_kernel_without_gradients_are_its_weights():
    """Keras starts averages at zero and overwrites them at the first step."""
    model, optimizer = make(SGD(0.1, use_ema=True))
    kernel, bias = model.trainable_variables
    optimizer.build([kernel, bias])
    before = kernel.numpy()
    for _ in range(2):
        optimizer.apply([tf.ones(4)], [bias])
    np.testing.assert_array_equal(optimizer.slots_by_name["average"][0].numpy(), before)
    optimizer.finalize_variable_values([kernel, bias])
    np.testing.assert_array_equal(kernel.numpy(), before)


def test_averages_of_what_grows_start_at_its_value():
    kernel = keras.Variable(np.float32([4, 1, 0, 0]))
    masks = Masks([kernel], [tf.constant([True, True, False, False])])
    optimizer = SparseOptimizer(SGD(1.0, use_ema=True, ema_momentum=0.5), masks, updaters.DNW())
    optimizer.build([kernel])
    # In the reserve of DNW, the third weight passes the second.
    for _ in range(4):
        optimizer.apply([tf.constant([0.0, 0.0, -0.5, 0.0])])
    assert masks.values()[0].numpy().tolist() == [True, False, True, False]
    # 1.5 as it joined at the third step, or 2 at the fourth.
    assert kernel.numpy().tolist() == [4, 0, 2, 0]
    assert optimizer.slots_by_name["average"][0].numpy().tolist() == [4, 0, 0.5 * 1.5 + 0.5 * 2, 0]


def test_averages_are_those_of_keras():
    """With all weights active, the swapped-in weights are those of the plain optimizer."""
    results = []
    for wrap in (False, True):
        model, optimizer = make(SGD(0.1, use_ema=True, ema_momentum=0.5), sparsity=0.0)
        sparse_lib.strip(model)
        model.compile(optimizer if wrap else SGD(0.1, use_ema=True, ema_momentum=0.5), "mse", jit_compile=False)
        x, y = data()
        callbacks = [keras.callbacks.SwapEMAWeights()]
        log = model.fit(x, y, epochs=3, shuffle=False, verbose=0, validation_data=(x, y), callbacks=callbacks)
        results.append((log.history["val_loss"], model.layers[0].kernel.numpy()))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            lambda masks: ("adam", masks),
            "The inner optimizer is 'adam': give an instance, such as keras.optimizers.Adam",
        ),
        (lambda masks: (keras.optimizers.Adam, masks), "The inner optimizer is the class Adam: give an instance"),
        (lambda masks: (masks, keras.optimizers.Adam()), "The inner optimizer is <.*Masks.*: give an instance"),
        (lambda masks: (keras.optimizers.Adam(), masks.values()), "second argument is the masks from sparsify"),
        (lambda masks: (keras.optimizers.Adam(), masks, sparse_lib.RigL), r"updater is the class RigL: give .* RigL\("),
        (lambda masks: (keras.optimizers.Adam(), masks, "rigl"), "The updater is 'rigl': give one of sparse_lib's"),
        (
            lambda masks: (keras.optimizers.Adam(), masks, sparse_lib.Prune(sparsity={"head": 0.5})),
            r"sparsity= names \['head'\]; the kernels are \w+/kernel",
        ),
    ],
)
def test_arguments_of_a_wrong_kind_are_one_sentence(arguments, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=message):
        SparseOptimizer(*arguments(sparse_lib.sparsify(model, 0.5)))


def test_a_schedule_per_kernel_is_followed_in_training():
    layers = [
        keras.layers.Dense(20, name="wide"),
        keras.layers.Dense(5, name="head"),
        keras.layers.Dense(2, name="last"),
    ]
    model = keras.Sequential([keras.Input((10,)), *layers])
    masks = sparse_lib.sparsify(model, 0.0)
    ramp = sparse_lib.PolynomialSparsity(0.0, 0.9, begin=0, end=6)
    prune = sparse_lib.Prune(sparsity={"wide": ramp, "head/kernel": 0.5}, begin_step=2, end_step=6, frequency=2)
    model.compile(SparseOptimizer(keras.optimizers.SGD(0.1), masks, prune), "mse")
    model.fit(np.ones((40, 10)), np.ones((40, 2)), batch_size=5, verbose=0)
    assert masks.active() == [20, 50, 10]
    masks.check()
