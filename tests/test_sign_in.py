"""Sign-In against automatic differentiation of the product of its factors, and in sparse training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import InputError, RigL, SignIn, SparseOptimizer
from sparse_lib.execution import Execution
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.masks import Masks
from sparse_lib.optimizer.sign_in import split_weights
from tests.experiment import tiny

TARGET = np.array([[-0.8, 0.3, 1.5], [0.6, -0.2, -1.1]])
START = np.array([[0.5, -0.4, 0.01], [-0.3, 0.0, 0.7]])
CURVATURE = np.array([[1.0, 3.0, 0.5], [0.2, 2.0, 1.0]])


def loss(theta):
    return tf.reduce_sum(CURVATURE * (theta - TARGET) ** 2)


def gradient(variable):
    with tf.GradientTape() as tape:
        value = loss(tf.convert_to_tensor(variable))
    return tape.gradient(value, variable.value)


@pytest.mark.parametrize(("momentum", "rate"), [(0.0, 0.1), (0.875, 0.05)])
def test_steps_are_those_of_sgd_on_the_factors(momentum, rate):
    theta = keras.Variable(START, dtype="float64")
    ours = SignIn(rate, momentum=momentum)
    ours.build([theta])
    m = np.sqrt((np.sqrt(1 + 4 * START**2) + 1) / 2)
    factors = [keras.Variable(value, dtype="float64") for value in (m, START / m)]
    theirs = keras.optimizers.SGD(rate, momentum=momentum)
    theirs.build(factors)
    flips = np.zeros((2, 3), bool)
    for _ in range(40):
        ours.apply([gradient(theta)])
        with tf.GradientTape() as tape:
            value = loss(factors[0].value * factors[1].value)
        theirs.apply(tape.gradient(value, [f.value for f in factors]))
        m, w = (factor.numpy() for factor in factors)
        flips |= m < 0
        np.testing.assert_allclose(theta.numpy(), m * w, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(1 + ours.variables[2].numpy(), m**2 - w**2, rtol=1e-9, atol=1e-12)
    assert np.any(np.sign(theta.numpy()) != np.sign(START))
    # With momentum, factors overshoot, and our common sign differs from theirs.
    assert flips.any() == (momentum > 0)


def test_one_step_and_a_reset_by_hand():
    # m^2 - w^2 = 1 and m w = sqrt(3) / 2: m^2 = 3 / 2, w^2 = 1 / 2.
    # theta moves by -eta g (m^2 + w^2) + eta^2 g^2 theta.
    theta = keras.Variable([[np.sqrt(3) / 2]], dtype="float64")
    optimizer = SignIn(0.1, reset_every=2)
    optimizer.build([theta])
    one = tf.constant([[2.0]], tf.float64)
    optimizer.apply([one])
    first = np.sqrt(3) / 2 * 1.04 - 0.2 * 2
    np.testing.assert_allclose(theta.numpy(), [[first]])
    np.testing.assert_allclose(optimizer.variables[2].numpy(), [[(1 - 0.04) - 1]])
    optimizer.apply([one])
    np.testing.assert_allclose(theta.numpy(), [[first * 1.04 - 0.2 * np.sqrt(0.96**2 + 4 * first**2)]])
    # The second of two steps resets the factors, and leaves theta.
    assert optimizer.variables[2].numpy() == 0
    # A bias has no factors.
    bias = keras.Variable([1.0])
    plain = SignIn(0.1)
    plain.build([bias])
    plain.apply([tf.constant([2.0])])
    np.testing.assert_allclose(bias.numpy(), [0.8])


def test_factors_have_their_product_and_difference():
    theta, difference = (g.ravel() for g in np.meshgrid([0.0, 1e-8, -0.3, 2e3], [1.0, -1.0, 1e-6, -1e3]))
    m, w = (f.numpy() for f in split_weights(tf.constant(theta), tf.constant(difference)))
    np.testing.assert_allclose(m * w, theta, rtol=1e-12)
    np.testing.assert_allclose(m**2 - w**2, difference, rtol=1e-6, atol=1e-9)
    assert np.all(m >= 0)


def make_sparse(updater=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(3)])
    rng = np.random.default_rng(1)
    kernels = [v for v in model.trainable_variables if len(v.shape) == 2]
    masks = Masks(kernels, [tf.constant(rng.random(k.shape) < 0.5) for k in kernels])
    optimizer = SparseOptimizer(SignIn(0.1, momentum=0.9, reset_every=3), masks, updater)
    optimizer.build(model.trainable_variables)
    x = tf.constant(rng.normal(size=(16, 8)), tf.float32)

    def step():
        with tf.GradientTape() as tape:
            value = tf.reduce_mean((model(x) - x[:, :3]) ** 2)
        optimizer.apply(tape.gradient(value, model.trainable_variables))

    return model, optimizer, step


def test_new_weights_begin_with_fresh_factors_and_what_is_off_the_mask_stays_zero():
    model, optimizer, step = make_sparse(RigL(frequency=4, end_step=8, drop_fraction=0.5))
    for count in range(8):
        before = [m.numpy() for m in optimizer.masks.values()]
        step()
        optimizer.masks.check()
        for slots, mask, old in zip(optimizer.slots, optimizer.masks.values(), before, strict=True):
            assert len(slots) == 3
            new = mask.numpy() & ~old
            assert new.any() == (count == 4)
            assert all(np.all(slot.numpy()[~mask.numpy() | new] == 0) for slot in slots)
    # They train all the same, though they started at zero.
    assert all(np.all(kernel.numpy()[mask.numpy()] != 0) for kernel, mask in optimizer.masks)
    # A copy with the same weights, masks and variables goes on with the same bits.
    other, resumed, other_step = make_sparse(RigL(frequency=4, end_step=8, drop_fraction=0.5))
    resumed.masks.assign([m.numpy() for m in optimizer.masks.values()])
    other.set_weights(model.get_weights())
    resumed.set_weights([v.numpy() for v in optimizer.variables])
    for _ in range(2):
        step()
        other_step()
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_packed_steps_are_dense_steps():
    results = []
    for packed in (False, True):
        model, optimizer, _ = make_sparse()
        assert not optimizer.find_dense_need()
        gradients = [tf.sin(10 * v.value) for v in model.trainable_variables]
        structures = Execution(model, optimizer.masks, "sparse").structures((0,))
        vectors = optimizer.pack([0])
        for _ in range(4):
            if packed:
                vectors.pack(structures)
                active = tf.boolean_mask(gradients[0], optimizer.masks.values()[0])
                optimizer.train_packed(vectors, [active, *gradients[1:]])
                vectors.unpack(structures)
            else:
                optimizer.apply(gradients)
        results.append([*model.get_weights(), *(s.numpy() for slots in optimizer.slots for s in slots)])
    for dense, packed in zip(*results, strict=True):
        np.testing.assert_allclose(dense, packed, rtol=1e-6, atol=1e-7)


def test_settings():
    for wrong in ({"momentum": 1.0}, {"scale": 0.0}, {"reset_every": 0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
            SignIn(**wrong)
    one = SignIn(0.2, momentum=0.5, scale=2.0, reset_every=7, clipnorm=1.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(one))
    assert again.get_config() == one.get_config()
    settings = tiny.experiment(optimizer={"name": "sign_in", "sign_in_scale": 0.5, "sign_in_reset": 9}).optimizer
    built = settings.build(settings.rate(10))
    assert (type(built), built.momentum, built.scale, built.reset_every) == (SignIn, 0.9, 0.5, 9)
    with pytest.raises(SettingError, match="is of optimizer.name='sign_in'; set that too"):
        tiny.experiment(optimizer={"name": "momentum", "sign_in_reset": 9})
    with pytest.raises(SettingError, match="optimizer.nesterov=True is of optimizer.name='momentum'"):
        tiny.experiment(optimizer={"name": "sign_in", "nesterov": True})
