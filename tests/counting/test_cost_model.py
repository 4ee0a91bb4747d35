"""Tests of the honest count, and of training FLOPs."""

import keras
import pytest
import tensorflow as tf

from sparse_lib import counting, updaters
from sparse_lib.counting import inference_flops, layer_costs, size_bytes, step_flops

layers = keras.layers


def lenet5(activation_layers=False):
    """LeNet5 with kernels of 150, 2,400, 30,720, 10,080 and 840 weights."""

    def with_relu(kind, *args, name):
        if activation_layers:
            return [kind(*args, name=name), layers.ReLU()]
        return [kind(*args, activation="relu", name=name)]

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *with_relu(layers.Conv2D, 6, 5, name="conv1"),
            layers.MaxPooling2D(2),
            *with_relu(layers.Conv2D, 16, 5, name="conv2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            *with_relu(layers.Dense, 120, name="fc1"),
            *with_relu(layers.Dense, 84, name="fc2"),
            layers.Dense(10, name="fc3"),
        ]
    )


# Output elements x (2 x weights of a unit, + 1 for the ReLU).
LENET5_FLOPS = [
    24 * 24 * 6 * (2 * 25 + 1),
    8 * 8 * 16 * (2 * 150 + 1),
    120 * (2 * 256 + 1),
    84 * (2 * 120 + 1),
    10 * (2 * 84),
]


def test_lenet5_by_hand():
    costs = layer_costs(lenet5())
    assert [c.kernel_size for c in costs] == [150, 2400, 30720, 10080, 840]
    assert [c.bias for c in costs] == [6, 16, 120, 84, 10]
    assert [c.inference_flops for c in costs] == LENET5_FLOPS
    assert inference_flops(costs) == 567_964 == sum(c.dense_inference_flops for c in costs)
    assert size_bytes(costs) == 4 * (44_190 + 236)
    assert all(c.bits == c.dense_bits and c.nnz == c.kernel_size for c in costs)


def test_lenet5_at_95_percent_by_hand():
    model = lenet5()
    active = [8, 120, 1536, 504, 42]
    names = [v.path for v in model.trainable_variables if v.path.endswith("kernel")]
    costs = layer_costs(model, dict(zip(names, active, strict=True)))
    assert [c.nnz for c in costs] == active
    assert [c.inference_flops for c in costs] == [
        24 * 24 * (2 * 8 + 6),
        8 * 8 * (2 * 120 + 16),
        2 * 1536 + 120,
        2 * 504 + 84,
        2 * 42,
    ]
    assert [c.dense_inference_flops for c in costs] == LENET5_FLOPS
    assert [c.bits for c in costs] == [32 * (n + c.bias) + c.kernel_size for n, c in zip(active, costs, strict=True)]
    assert size_bytes(costs) == -(-sum(c.bits for c in costs) // 8)


def test_mlp_by_hand_and_a_kernel_may_stay_dense():
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(300, activation="relu", name="fc1"),
            layers.Dense(100, activation="relu", name="fc2"),
            layers.Dense(10, name="fc3"),
        ]
    )
    assert inference_flops(layer_costs(model)) == 2 * 266_200 + 300 + 100
    names = [v.path for v in model.trainable_variables if v.path.endswith("kernel")]
    sparse = layer_costs(model, {names[0]: 4704, names[1]: None})
    assert inference_flops(sparse) == 2 * (4704 + 30_000 + 1000) + 400
    assert [c.bits - c.dense_bits for c in sparse] == [32 * (4704 - 235_200) + 235_200, 0, 0]


def test_activation_layers_count_like_fused_ones():
    costs = layer_costs(lenet5(activation_layers=True))
    assert inference_flops(costs) == 567_964
    assert size_bytes(costs) == 4 * (44_190 + 236)
    assert [c.kernel_size for c in costs] == [150, 0, 2400, 0, 30720, 0, 10080, 0, 840]


def test_shared_and_nested_layers_count_at_every_call_and_once_in_size():
    block = keras.Sequential([keras.Input((6,)), layers.Dense(6, activation="relu", name="inner")])
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2, name="head")(block(block(block(inputs)))))
    inner, head = layer_costs(model)
    assert inner.inference_flops == 3 * (2 * 36 + 6)
    assert inner.bits == 32 * 42
    assert head.inference_flops == 2 * 12
    half = layer_costs(model, {inner.name: 18})[0]
    assert half.inference_flops == 3 * (2 * 18 + 6) and half.bits == 32 * 24 + 36


def test_attention_inside_a_model_is_counted_by_its_projections():
    query = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(2, 4, use_bias=False)
    model = keras.Model(query, attention(query, query))
    costs = layer_costs(model)
    assert [c.kernel_size for c in costs] == [64] * 4
    assert all(c.inference_flops == 6 * 8 * (2 * 8 - 1) for c in costs)


class Subclassed(keras.Model):
    """Calls one layer twice."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(4, activation="relu")
        self.norm = layers.BatchNormalization()
        self.unused = layers.Dense(3)
        self.unused.build((None, 4))

    def call(self, x):
        return self.hidden(self.norm(self.hidden(x)))


def test_subclassed_model_needs_its_input_shape_and_stays_as_it_was():
    model = Subclassed()
    model(tf.zeros((1, 4)))
    with pytest.raises(ValueError, match="pass input_shape"):
        layer_costs(model)
    before = [v.numpy().tobytes() for v in model.variables]
    (cost,) = layer_costs(model, input_shape=(4,))
    assert cost.inference_flops == 2 * (2 * 16 + 4)
    assert [v.numpy().tobytes() for v in model.variables] == before
    assert "call" not in vars(model.hidden)


def test_the_micronet_rule_reads_a_model():
    costs = layer_costs(lenet5(), rule="micronet")
    # Padded as if by half a kernel, with a bias and a ReLU everywhere.
    assert [c.inference_flops for c in costs] == [
        28 * 28 * 6 * 51,
        12 * 12 * 16 * 301,
        120 * 513,
        84 * 241,
        10 * 169,
    ]
    model = keras.applications.MobileNet(weights=None)
    costs = layer_costs(model, rule="micronet")
    assert inference_flops(costs) == 1_143_087_400
    assert size_bytes(costs) == 135_073_024 // 8


def test_an_activation_given_as_a_layer_counts_once():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, activation=layers.ReLU())])
    assert inference_flops(layer_costs(model)) == 2 * 8 + 2


def test_a_cost_model_counts_any_masks_without_running_the_model_again(monkeypatch):
    model = lenet5()
    counter = counting.CostModel(model)
    monkeypatch.setattr(model, "call", None)
    dense = counter.costs()
    assert [c.inference_flops for c in dense] == LENET5_FLOPS
    active = {dense[0].name: 30, dense[4].name: 84}
    sparse = counter.costs(active)
    assert [c.nnz for c in sparse] == [30, 2400, 30720, 10080, 84]
    assert counter.costs() == dense


def test_weights_count_the_bits_of_their_type():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, dtype="float64")])
    (cost,) = layer_costs(model)
    assert cost.bits == 64 * 10


def test_bad_input_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="only")])
    (name,) = [c.name for c in layer_costs(model)]
    with pytest.raises(ValueError, match="Unknown rule 'macronet'"):
        layer_costs(model, rule="macronet")
    with pytest.raises(ValueError, match="Masks name typo/kernel"):
        layer_costs(model, {"typo/kernel": 3})
    for nnz in (-1, 9):
        with pytest.raises(ValueError, match="from 0 to 8"):
            layer_costs(model, {name: nnz})
    with pytest.raises(ValueError, match="not built"):
        layer_costs(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="pass input_shape"):
        layer_costs(keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)]))
    stacked = keras.Sequential([keras.Input((4, 3)), layers.RNN([layers.GRUCell(2), layers.GRUCell(2)])])
    with pytest.raises(ValueError, match="of type RNN"):
        layer_costs(stacked)
    wide = keras.Sequential([keras.Input((8, 6, 3)), layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="use rule 'honest'"):
        layer_costs(wide, rule="micronet")


DENSE, SPARSE, BACKWARD = 1000, 100, 300


@pytest.mark.parametrize(
    ("updater", "step", "update"),
    [
        (updaters.Static, 300, 300),
        (updaters.Prune, 300, 300),
        (updaters.SET, 300, 300),
        (updaters.MEST, 300, 300),
        (updaters.CHT, 300, 300),
        (updaters.CHTs, 300, 300),
        (updaters.ACDC, 300, 300),
        (updaters.SNFS, 1200, 1200),
        (updaters.DNW, 1200, 1200),
        (updaters.RigL, 300, 1200),
        (updaters.RigLInverted, 300, 1200),
        (updaters.RigLSNIP, 300, 1200),
        (updaters.RigLGraSP, 300, 1200),
        (updaters.RigLAuto, 300, 1200),
        (updaters.SRigL, 300, 1200),
        (updaters.GraNet, 300, 1200),
        (updaters.TopKAST, 500, 500),
    ],
)
def test_training_flops(updater, step, update):
    kind = updater.weight_gradient
    backward = BACKWARD if updater is updaters.TopKAST else None
    found = [step_flops(kind, DENSE, SPARSE, is_update, backward) for is_update in (False, True)]
    assert found == [step, update] and all(type(value) is int for value in found)
    average = counting.training_flops_per_sample(kind, DENSE, SPARSE, 9, backward)
    assert average == (9 * step + update) / 10


def test_dense_training_costs_three_passes():
    assert step_flops("sparse", DENSE, DENSE) == 3000 and step_flops("dense", DENSE, DENSE) == 3000


def test_step_flops_add_up_exactly_beyond_double_precision():
    dense, sparse = 2**53 + 1, 2**51 + 1
    total = sum(step_flops("dense_at_updates", dense, sparse, step % 100 == 0) for step in range(1, 1001))
    assert total == 990 * 3 * sparse + 10 * (2 * sparse + dense)


def test_training_flops_refuse_bad_input():
    with pytest.raises(ValueError, match="weight_gradient='rigl' is not known: use sparse, dense"):
        step_flops("rigl", DENSE, SPARSE)
    with pytest.raises(ValueError, match="needs backward_flops"):
        step_flops("backward_set", DENSE, SPARSE)
    with pytest.raises(ValueError, match="at least 1 step"):
        counting.training_flops_per_sample("dense_at_updates", DENSE, SPARSE, frequency=0)


def test_pruning_averages_over_its_sparsities():
    # 3 f_D (1 - s), where every layer has the sparsity s.
    average = counting.pruning_flops_per_sample(lambda s: DENSE * (1 - s), [0.0, 0.5, 0.75, 0.75])
    assert average == 3 * DENSE * (1 + 0.5 + 0.25 + 0.25) / 4
    with pytest.raises(ValueError, match="at least one step"):
        counting.pruning_flops_per_sample(lambda s: DENSE, [])


@pytest.mark.parametrize(("budget", "width"), [(250_000, 0.5), (251_500, 0.501), (10**6, 1.0), (9e6, 3.0), (40, 0.006)])
def test_width_of_the_nearest_cost(budget, width):
    # Widths are thousandths, and cost is that of a square layer.
    tried = []

    def cost(w):
        tried.append(w)
        return int(1000 * w + 0.5) ** 2

    assert counting.width_multiplier(cost, budget) == width
    assert len(tried) < 40


def test_equal_costs_give_the_narrowest_width():
    assert counting.width_multiplier(lambda w: int(10 * w), 4) == 0.4
    assert counting.width_multiplier(lambda w: int(10 * w), 4, resolution=100) == 0.4
    with pytest.raises(ValueError, match="narrowest network costs 100"):
        counting.width_multiplier(lambda _: 100, 50)
