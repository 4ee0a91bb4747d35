"""Sparsity distributions against published values, hand-worked tables and their own equation."""

import math

import numpy as np
import pytest

from sparse_lib import distributions
from tests.golden_values import read_golden

_GOLDEN = read_golden("sparsities")
_STR = read_golden("str_sparsities")
_RESNET50 = {name: tuple(shape) for name, shape in _GOLDEN["models"]["resnet50"]["layers"]}
_ALIASES = {"erdos_renyi_kernel": "erk", "erdos_renyi": "er", "random": "uniform"}


def _model_cases():
    cases = []
    for model, content in _GOLDEN["models"].items():
        for variant, methods in content["sparsities"].items():
            for method, by_sparsity in methods.items():
                for sparsity, truth in by_sparsity.items():
                    case_id = f"{model}-{variant}-{method}-{sparsity}"
                    values = (content["layers"], variant, method, float(sparsity), truth)
                    cases.append(pytest.param(*values, id=case_id))
    return cases


@pytest.mark.parametrize(("layers", "variant", "method", "sparsity", "truth"), _model_cases())
def test_published_models(layers, variant, method, sparsity, truth):
    shapes = {name: tuple(shape) for name, shape in layers}
    first = layers[0][0]
    if variant == "first_dense":
        del shapes[first]
    custom = {first: 0.0} if variant == "first_custom0" else None

    found = distributions.sparsities(shapes, sparsity, distribution=method, custom=custom)
    counts = distributions.nnz(shapes, sparsity, distribution=method, custom=custom)

    assert list(found) == list(counts) == list(shapes)
    assert found == pytest.approx(truth["layers"], rel=1e-12)
    assert sum(value == 0 for value in found.values()) == truth["n_dense_layers"]
    total = sum(math.prod(shape) for shape in shapes.values())
    assert total == truth["n_total"]
    assert sum(counts.values()) == total - truth["n_zeros"]
    assert all(type(count) is int for count in counts.values())
    short = distributions.sparsities(shapes, sparsity, distribution=_ALIASES[method], custom=custom)
    assert short == found


@pytest.mark.parametrize("case", _GOLDEN["tiny"], ids=lambda case: str(case["shapes"]))
@pytest.mark.parametrize("method", _ALIASES)
def test_published_small_cases(case, method):
    shapes = {str(i): tuple(shape) for i, shape in enumerate(case["shapes"])}
    found = distributions.sparsities(shapes, case["sparsity"], distribution=method, custom=case["custom"])
    assert list(found.values()) == pytest.approx(case[method], rel=1e-12)


@pytest.mark.parametrize(("size", "sparsity", "truth"), _GOLDEN["get_n_zeros"])
def test_published_zero_counts(size, sparsity, truth):
    assert distributions.n_zeros(size, sparsity) == truth


def test_ceil_counts_one_more_zero_where_the_product_is_no_integer():
    assert distributions.n_zeros(7, 0.5, "ceil") == 4
    assert distributions.n_zeros(8, 0.5, "ceil") == 4
    counts = distributions.nnz({"a": (7, 1)}, 0.5, distribution="uniform", rounding="ceil")
    assert counts == {"a": 3}


@pytest.mark.parametrize(("rounding", "megabytes"), [("ceil", "23.683"), ("floor", "23.684")])
def test_rounding_explains_the_published_size_of_resnet50(rounding, megabytes):
    found = distributions.sparsities(_RESNET50, 0.8, distribution="erk", rounding=rounding)
    bits = 0.0
    for name, shape in _RESNET50.items():
        size = math.prod(shape)
        mask_bits = size if found[name] > 0 else 0
        bits += 32 * size * (1 - found[name]) + mask_bits + 32 * shape[-1]
    assert f"{bits / 8e6:.3f}" == megabytes


def test_erk_of_lenet5_by_hand():
    # conv1 and fc3 exceed density 1 and leave 7,848 of 8,838 weights to the others, whose raw
    # densities times sizes are 32, 376 and 204: epsilon is 7,848 / 612 = 12.8235.
    shapes = {
        "conv1": (5, 5, 1, 6),
        "conv2": (5, 5, 6, 16),
        "fc1": (256, 120),
        "fc2": (120, 84),
        "fc3": (84, 10),
    }
    found = distributions.sparsities(shapes, 0.8, distribution="erk")
    assert found["conv1"] == found["fc3"] == 0
    epsilon = (30 + 480 + 6144 + 2016 + 168 - 150 - 840) / (32 + 376 + 204)
    assert epsilon == pytest.approx(12.8235, abs=1e-4)
    assert found["conv2"] == pytest.approx(1 - epsilon * 32 / 2400, rel=1e-12)
    assert found["fc1"] == pytest.approx(1 - epsilon * 376 / 30720, rel=1e-12)


def _random_shapes(rng):
    ranks = rng.integers(1, 6, size=rng.integers(1, 9))
    return {f"kernel{i}": tuple(int(d) for d in rng.integers(1, 12, size=rank)) for i, rank in enumerate(ranks)}


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("distribution", ["er", "erk"])
def test_total_meets_the_budget_for_kernels_of_any_rank(distribution, rounding):
    rng = np.random.default_rng(0)
    n_capped = 0
    for _ in range(300):
        shapes = _random_shapes(rng)
        sparsity = float(rng.uniform(0, 1))
        power = float(rng.choice([0.5, 1.0, 2.0]))
        arguments = {"distribution": distribution, "rounding": rounding, "power_scale": power}
        found = distributions.sparsities(shapes, sparsity, **arguments)
        counts = distributions.nnz(shapes, sparsity, **arguments)
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        budget = sum(n - distributions.n_zeros(n, sparsity, rounding) for n in sizes.values())

        real_total = sum(sizes[name] * (1 - found[name]) for name in shapes)
        assert real_total == pytest.approx(budget, abs=1e-6)
        assert abs(sum(counts.values()) - budget) <= len(shapes)
        assert all(0 <= value <= 1 for value in found.values())
        assert all(0 <= counts[name] <= sizes[name] for name in shapes)
        # What is not capped shares one scale, and every capped kernel would have exceeded it.
        dims = {n: s[-2:] if distribution == "er" else s for n, s in shapes.items()}
        raw = {n: (sum(d) / math.prod(d)) ** power for n, d in dims.items()}
        free = [name for name in shapes if found[name] > 1e-9]
        scales = [(1 - found[name]) / raw[name] for name in free]
        assert scales == pytest.approx([scales[0]] * len(scales) if scales else [], rel=1e-9)
        capped = [name for name in shapes if name not in free]
        assert all(raw[n] >= raw[m] for n in capped for m in free)
        n_capped += len(capped)
    assert n_capped > 100


def test_er_ignores_leading_dimensions_and_erk_does_not():
    shapes = {"conv": (3, 3, 4, 8), "conv3d": (2, 2, 2, 4, 8), "vector": (50,), "fc": (20, 30)}
    er = distributions.sparsities(shapes, 0.9, distribution="er")
    erk = distributions.sparsities(shapes, 0.9, distribution="erk")
    assert er["conv"] == er["conv3d"]
    assert (1 - erk["conv"]) / (1 - erk["conv3d"]) == pytest.approx((18 / 288) / (18 / 256))
    # The vector's raw density is 1: 50 / 50.
    assert (1 - er["vector"]) / (1 - er["conv"]) == pytest.approx(32 / 12)
    assert (1 - erk["vector"]) / (1 - erk["conv"]) == pytest.approx(288 / 18)


def test_power_scale_zero_is_uniform_and_one_is_the_default():
    shapes = {"a": (10, 20), "b": (30, 30)}
    flat = distributions.sparsities(shapes, 0.5, power_scale=0.0)
    assert list(flat.values()) == pytest.approx([0.5, 0.5])
    squared = distributions.sparsities(shapes, 0.9, power_scale=2.0)
    ratio = (1 - squared["a"]) / (1 - squared["b"])
    assert ratio == pytest.approx(((30 / 200) / (60 / 900)) ** 2)


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
def test_no_sparsity_is_all_dense(distribution):
    shapes = {"a": (3, 3), "b": (3, 3), "c": (5, 5, 2, 7), "d": (2,)}
    found = distributions.sparsities(shapes, 0.0, distribution=distribution)
    assert found == dict.fromkeys(shapes, 0.0)
    counts = distributions.nnz(shapes, 0.0, distribution=distribution)
    assert counts == {"a": 9, "b": 9, "c": 350, "d": 2}


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
def test_custom_kernels_keep_their_sparsity_and_stay_out_of_the_others_budget(distribution):
    shapes = {"a": (40, 30), "b": (30, 20), "c": (20, 10)}
    custom = {"b": 0.25, "c": 0.0}
    found = distributions.sparsities(shapes, 0.9, distribution=distribution, custom=custom)
    assert list(found) == ["a", "b", "c"]
    assert found["b"] == 0.25
    assert found["c"] == 0.0
    assert found["a"] == pytest.approx(0.9)
    all_custom = {"a": 0.1, "b": 0.2, "c": 0.3}
    assert all_custom == distributions.sparsities(shapes, 0.9, distribution=distribution, custom=all_custom)


def test_first_layer_dense_equals_custom_zero():
    shapes = {"a": (40, 30), "b": (30, 20), "c": (20, 10)}
    found = distributions.sparsities(shapes, 0.9, distribution="uniform", first_layer_dense=True)
    assert found == {"a": 0.0, "b": 0.9, "c": 0.9}
    for distribution in ("er", "erk"):
        first = distributions.nnz(shapes, 0.9, distribution=distribution, first_layer_dense=True, custom={"c": 0.5})
        custom = distributions.nnz(shapes, 0.9, distribution=distribution, custom={"a": 0.0, "c": 0.5})
        assert first == custom


@pytest.mark.parametrize("key", _STR["layers"])
def test_str_table_by_name(key):
    assert list(_STR["layers"]) == [str(k) for k in _STR["keys"]]
    found = distributions.sparsities(_RESNET50, float(key), distribution="str")
    assert found == pytest.approx(_STR["layers"][key], rel=1e-12)
    size = sum(math.prod(shape) for shape in _RESNET50.values())
    counts = distributions.nnz(_RESNET50, float(key), distribution="str")
    assert 1 - sum(counts.values()) / size == pytest.approx(float(key), abs=1e-4)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_str_table_by_order_wherever_the_projections_come(place):
    names = list(_RESNET50)
    for start in [i for i, name in enumerate(names) if "_projection_block" in name][::4]:
        assert names[start].startswith("resnet_model/bottleneck_projection")
        names.insert(start + place, names.pop(start))
    shapes = {f"layer{i}": _RESNET50[name] for i, name in enumerate(names)}
    found = distributions.sparsities(shapes, 0.9023, distribution="str", custom={"layer53": 0.1})
    truth = [_STR["layers"]["0.9023"][name] for name in names]
    assert list(found.values())[:-1] == pytest.approx(truth[:-1], rel=1e-12)
    assert found["layer53"] == 0.1


def test_str_table_knows_nothing_else():
    with pytest.raises(ValueError, match=r"no overall sparsity 0.8; use one of .*0.7955"):
        distributions.sparsities(_RESNET50, 0.8, distribution="str")
    with pytest.raises(ValueError, match="fits only the 54 kernels of a ResNet-50"):
        distributions.sparsities({"fc": (10, 10)}, 0.7955, distribution="str")
    wide = {f"layer{i}": (*s[:-1], 2 * s[-1]) for i, s in enumerate(_RESNET50.values())}
    with pytest.raises(ValueError, match="fits only the 54 kernels of a ResNet-50"):
        distributions.sparsities(wide, 0.7955, distribution="str")


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"overall sparsity .* fraction of zeros in"):
        distributions.sparsities({"a": (3, 3)}, sparsity)
    with pytest.raises(ValueError, match=r"custom sparsity of 'a' .* fraction of zeros in"):
        distributions.sparsities({"a": (3, 3)}, 0.5, custom={"a": sparsity})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distribution": "erq"}, "Unknown distribution 'erq'; use one of"),
        ({"rounding": "round", "distribution": "uniform"}, "Unknown rounding 'round'"),
        ({"custom": {"fc9": 0.5}}, r"name \['fc9'\]; the kernels are a, b"),
        ({"custom": {"a": 0.5}, "first_layer_dense": True}, "set first_layer_dense to False"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        distributions.sparsities({"a": (3, 3), "b": (3, 3)}, 0.5, **arguments)


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_kernels_without_weights(shape):
    with pytest.raises(ValueError, match=r"'a' has shape .*; give at least one weight"):
        distributions.nnz({"a": shape}, 0.5)
