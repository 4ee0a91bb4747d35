"""One call each: the measurements agree with explicit derivatives, plain evaluation and plain counts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import curvature, landscape, measure

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(50, 6)).astype(np.float32)
Y = RANDOM.integers(0, 3, 50).astype(np.int32)


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    layers = [keras.Input((6,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)]
    return keras.Sequential(layers)


@pytest.fixture
def masks(model):
    return sparse_lib.sparsify(model, sparsity=0.5, distribution="uniform")


def flat_active(model, masks):
    """Where the active weights and the biases lie in all trainable variables laid end to end."""
    aligned = masks.aligned(model.trainable_variables)
    parts = [
        np.ones(v.shape, bool) if m is None else m.numpy()
        for v, m in zip(model.trainable_variables, aligned, strict=True)
    ]
    return np.concatenate([part.ravel() for part in parts])


def loss_and_gradient(model):
    """Mean loss, and its gradient by all trainable variables laid end to end."""
    with tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, model(X))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    return loss, tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)


def hessian_of(model):
    """The Hessian of the mean loss, row by row."""
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        _, flat = loss_and_gradient(model)
    rows = [tf.reshape(tape.jacobian(flat, v, experimental_use_pfor=False), [flat.shape[0], -1]) for v in variables]
    return np.concatenate([r.numpy() for r in rows], axis=1)


def data(kind):
    if kind == "dataset":
        return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    if kind == "batches":
        return [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 50, 16)]
    return X, Y


@pytest.mark.parametrize("kind", ["arrays", "dataset", "batches"])
def test_gradient_flow(model, masks, kind):
    loss, gradient = (value.numpy() for value in loss_and_gradient(model))
    active = flat_active(model, masks)
    found = measure.gradient_flow(model, data(kind), masks=masks, batch_size=16)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.norm == pytest.approx(np.linalg.norm(gradient[active]), rel=1e-5)
    assert found.norm_off_mask == pytest.approx(np.linalg.norm(gradient[~active]), rel=1e-5)
    assert np.linalg.norm(list(found.norm_by_variable.values())) == pytest.approx(found.norm, rel=1e-5)


def test_a_keras_loss_is_taken_too(model):
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    softmax(X)
    plain = measure.gradient_flow(model, (X, Y))
    found = measure.gradient_flow(softmax, (X, Y), loss=keras.losses.SparseCategoricalCrossentropy())
    assert found.norm == pytest.approx(plain.norm, rel=1e-4)


def test_spectrum(model, masks):
    hessian = hessian_of(model)
    active = flat_active(model, masks)
    wanted = np.linalg.eigvalsh(hessian[np.ix_(active, active)])
    np.testing.assert_allclose(
        measure.top_eigenvalues(model, (X, Y), 3, masks=masks).values, wanted[::-1][:3], rtol=1e-3
    )
    lowest = measure.top_eigenvalues(model, (X, Y), 1, "smallest", masks=masks, batch_size=7).values
    np.testing.assert_allclose(lowest, wanted[:1], atol=1e-4)
    estimate = measure.trace(model, (X, Y), masks=masks, precision=0.05)
    assert abs(estimate.value - wanted.sum()) < 4 * estimate.error
    density = measure.spectral_density(model, (X, Y), masks=masks)
    assert np.trapezoid(density.values, density.grid) == pytest.approx(1, abs=0.02)


def test_interpolation_has_plain_evaluation_at_its_ends(model):
    start = [v.numpy() for v in model.trainable_variables]
    end = [value + 0.5 for value in start]
    path = measure.interpolation(model, start, end, (X, Y), points=8, batch_size=16)
    assert {0.0, 1.0} <= set(path.coefficients)
    loss = float(loss_and_gradient(model)[0])
    at_start = path.coefficients.index(0.0)
    assert path.losses[at_start] == pytest.approx(loss, rel=1e-5)
    assert path.accuracies[at_start] == pytest.approx(np.mean(model(X).numpy().argmax(-1) == Y))
    assert path.loss_barrier.above_line.height >= 0
    np.testing.assert_array_equal(start[0], model.trainable_variables[0].numpy())


def test_interpolation_needs_a_value_for_each_variable(model):
    start = [v.numpy() for v in model.trainable_variables]
    with pytest.raises(ValueError, match="Got 3 values for 4 trainable variables"):
        measure.interpolation(model, start[:3], start[:3], (X, Y))


def test_cost(model, masks):
    found = measure.cost(model, masks)
    assert (found.weights, found.active_weights) == (45, sum(masks.active()))
    dense = measure.cost(model)
    # A unit with n inputs and a bias: n products, n - 1 sums, 1 for the bias; 5 activations.
    assert dense.inference_flops == found.dense_inference_flops == 5 * 12 + 5 + 3 * 10
    assert found.inference_flops < dense.inference_flops and found.size_bytes < dense.size_bytes


def sentence_model(by_name: bool) -> keras.Model:
    """Two inputs of open length, added as embeddings."""
    words, types = (keras.Input((None,), dtype="int32", name=name) for name in ("words", "types"))
    x = keras.layers.Embedding(9, 6)(words) + keras.layers.Embedding(2, 6)(types)
    return keras.Model(
        {"words": words, "types": types} if by_name else [words, types], keras.layers.Dense(4, use_bias=False)(x)
    )


@pytest.mark.parametrize("by_name", [True, False])
def test_cost_of_inputs_of_open_length(by_name):
    model = sentence_model(by_name)
    masks = sparse_lib.sparsify(model, 0.5)
    shape = {"types": (7,), "words": (7,)} if by_name else [(7,), (7,)]
    found = measure.cost(model, masks, input_shape=shape)
    # A token has 4 outputs: 24 products and 20 sums; half of the products are left, and every output keeps an input.
    assert (found.dense_inference_flops, found.active_weights) == (7 * (24 + 20), 12)
    assert found.inference_flops == 7 * (12 + 8)
    for wrong in ((7,), {"words": (7,)}, [(7,)], [(7, 2), (7,)], {"words": (7,), "kinds": (7,)}, 7):
        with pytest.raises(ValueError, match=r"input_shape is .*takes .*None.*: give the same, with sizes for None"):
            measure.cost(model, masks, input_shape=wrong)
    with pytest.raises(ValueError, match="is not known: pass input_shape, .* for several inputs a list or dictionary"):
        measure.cost(model, masks)


class OfNames(keras.Model):
    """Takes a dictionary, and records no shapes."""

    def __init__(self):
        super().__init__()
        self.left, self.right = keras.layers.Dense(3, use_bias=False), keras.layers.Dense(3, use_bias=False)

    def call(self, inputs):
        return self.left(inputs["a"]) + self.right(inputs["b"])


def test_cost_of_a_subclassed_model_with_inputs_by_name():
    model = OfNames()
    model({"a": np.ones((1, 4)), "b": np.ones((1, 5))})
    found = measure.cost(model, input_shape={"a": (4,), "b": (5,)})
    assert (found.weights, found.inference_flops) == (27, 3 * (7 + 9))


def test_a_meter_follows_weights_and_masks_and_is_traced_once(model, masks, monkeypatch):
    traces = count_traces(monkeypatch)
    meter = measure.GradientFlowMeter(model, data("dataset"), masks=masks, batch_size=25)
    first = meter()
    once = len(traces)
    masks.prune(0.8)
    model.layers[0].bias.assign(np.ones(5))
    second = meter()
    assert len(traces) == once
    objective = sparse_lib.Objective(model)
    _, gradient = objective.loss_and_gradient(objective.params(), X, Y)
    flat = np.concatenate([np.ravel(g) for g in gradient])
    assert second.norm == pytest.approx(np.linalg.norm(flat[flat_active(model, masks)]), rel=1e-5)
    assert first.norm != pytest.approx(second.norm, rel=1e-3)


def test_an_objective_takes_the_same_data(model):
    objective = sparse_lib.Objective(model)
    expected, gradient = objective.loss_and_gradient(objective.params(), X, Y)
    for kind in ("arrays", "dataset", "batches"):
        loss, found = objective.loss_and_gradient_over(data(kind), batch_size=16)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
        for mine, whole in zip(found, gradient, strict=True):
            np.testing.assert_allclose(mine, whole, rtol=1e-4, atol=1e-6)
    shifted = [tf.zeros_like(p) for p in objective.params()]
    assert float(objective.loss_and_gradient_over((X, Y), shifted)[0]) == pytest.approx(np.log(3), rel=1e-6)


def test_operators_and_evaluators_take_the_same_data(model, masks):
    objective, subspace = sparse_lib.Objective(model), curvature.Subspace.active(model, masks)
    vector = RANDOM.normal(size=subspace.size)
    products = [
        curvature.HessianOperator(objective, objective.params(), data(kind), subspace).matvec(vector)
        for kind in ("arrays", "dataset", "batches")
    ]
    for product in products[1:]:
        np.testing.assert_allclose(product, products[0], rtol=1e-4, atol=1e-6)
    splits = {kind: data(kind) for kind in ("arrays", "dataset", "batches")}
    scores = landscape.ModelEvaluator(model, splits)([v.numpy() for v in model.trainable_variables])
    assert len({(round(score.loss, 5), round(score.accuracy, 5)) for score in scores.values()}) == 1


def test_callback_logs_and_moves_nothing(model):
    def weights(callbacks):
        keras.utils.set_random_seed(5)
        copy = keras.models.clone_model(model)
        own = sparse_lib.sparsify(copy, sparsity=0.5)
        optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), own, sparse_lib.RigL(frequency=2, end_step=8))
        copy.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        history = copy.fit(X, Y, epochs=4, batch_size=10, shuffle=False, verbose=0, callbacks=callbacks(own))
        return [v.numpy() for v in copy.weights], history.history, copy, own

    logged, history, copy, own = weights(lambda own: [measure.GradientFlowLogger((X, Y), own, every=2)])
    plain, _, _, _ = weights(lambda own: [])
    for one, other in zip(logged, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(history["gradient_norm"]) == 2 and history["sparsity"][-1] == pytest.approx(own.sparsity())
    assert history["gradient_norm"][-1] == pytest.approx(measure.gradient_flow(copy, (X, Y), masks=own).norm, rel=1e-5)


def count_traces(monkeypatch):
    """Counts how often the loss is traced."""
    traces = []
    original = sparse_lib.Objective.losses_of

    def losses_of(self, outputs, y):
        traces.append(1)
        return original(self, outputs, y)

    monkeypatch.setattr(sparse_lib.Objective, "losses_of", losses_of)
    return traces


def test_graphs_are_kept_between_calls(model, masks, monkeypatch, tmp_path):
    traces, values = count_traces(monkeypatch), [v.numpy() for v in model.trainable_variables]
    calls = (
        lambda: measure.gradient_flow(model, (X, Y), masks=masks),
        lambda: measure.top_eigenvalues(model, (X, Y), masks=masks).values,
        lambda: measure.interpolation(model, values, values, (X, Y), points=2),
    )
    first = [call() for call in calls]
    assert traces
    traces.clear()
    again = [call() for call in calls]
    assert not traces
    assert first[0] == again[0] and first[2] == again[2]
    np.testing.assert_array_equal(first[1], again[1])
    model.save(tmp_path / "model.keras")
    # Weights, masks and data are read anew.
    model.layers[0].kernel.assign(2 * model.layers[0].kernel)
    loss, gradient = (value.numpy() for value in loss_and_gradient(model))
    found = measure.gradient_flow(model, (X, Y))
    assert not traces
    assert found.loss == pytest.approx(loss, rel=1e-5) and found.norm == pytest.approx(np.linalg.norm(gradient))
    assert measure.gradient_flow(model, (X, Y[::-1])).loss != found.loss


@pytest.mark.parametrize("change", ["activation", "trainable", "loss"])
def test_graphs_of_what_changed_are_made_anew(model, change):
    before = measure.gradient_flow(model, (X, Y))
    options = {}
    if change == "activation":
        model.layers[0].activation = keras.activations.relu
    elif change == "trainable":
        model.layers[0].trainable = False
    else:
        options["loss"] = lambda y, z: 2 * sparse_lib.objective.cross_entropy(y, z)
    after = measure.gradient_flow(model, (X, Y), **options)
    loss = float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, model(X)))
    assert after.loss == pytest.approx(2 * loss if options else loss, rel=1e-5)
    assert before.norm != after.norm
