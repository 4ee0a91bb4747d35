"""Products with active weights, against the dense operations of TensorFlow."""

import concurrent.futures
import os
import time

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.execution import library, products

DENSITIES = (0.0, 1.0, 0.1, 0.3, 0.6)


def _make_mask(rng, shape, density):
    """Returns a random mask with empty rows and a nearly empty column."""
    mask = rng.random(shape) < density
    if 0 < density < 1:
        mask[..., 0] &= rng.random(shape[:-1]) < 0.2
        mask.reshape(-1, shape[-1])[rng.integers(0, mask.size // shape[-1])] = False
    return mask


def _make_kernel(values, index, shape):
    return tf.reshape(tf.scatter_nd(index[:, None], values, [int(np.prod(shape))]), shape)


def _dilate(kernel, dilations):
    """Returns the kernel with zeros between its taps: TensorFlow has no gradients of dilated convolutions on CPUs."""
    height, width, channels, outputs = kernel.shape
    stuffed = tf.pad(
        kernel[:, None, :, None], [[0, 0], [0, dilations[0] - 1], [0, 0], [0, dilations[1] - 1], [0, 0], [0, 0]]
    )
    stuffed = tf.reshape(stuffed, [height * dilations[0], width * dilations[1], channels, outputs])
    return stuffed[: (height - 1) * dilations[0] + 1, : (width - 1) * dilations[1] + 1]


class Case:
    """A layer of random sizes, drawn from a seed, in its sparse and its dense form."""

    def __init__(self, seed, *, is_dense=False, dtype=tf.float64, largest=30):
        rng = np.random.default_rng(seed)
        density = DENSITIES[int(rng.integers(0, len(DENSITIES)))]
        batch, channels, outputs = int(rng.integers(1, 37)), int(rng.integers(1, 20)), int(rng.integers(1, 20))
        if is_dense:
            batch, channels, outputs = (int(n) for n in rng.integers(1, 200, 3))
            shape, kernel, self.options = [batch, channels], [channels, outputs], {}
        else:
            taps = [int(n) for n in rng.integers(1, 5, 2)] if seed % 5 else [1, 1]
            dilations = [int(n) for n in rng.integers(1, 3, 2)] if seed % 3 == 0 else [1, 1]
            strides = [int(n) for n in rng.integers(1, 4, 2)] if dilations == [1, 1] else [1, 1]
            size = [int(n) for n in rng.integers(8, largest, 2)]
            shape, kernel = [batch, *size, channels], [*taps, channels, outputs]
            self.options = {"strides": strides, "padding": ["same", "valid"][seed % 2], "dilations": dilations}
        self.is_dense, self.kernel = is_dense, kernel
        self.structure = products.find_structure(_make_mask(rng, kernel, density))
        self.x = tf.constant(rng.normal(size=shape), dtype)
        self.values = tf.constant(rng.normal(size=self.structure.index.shape), dtype)
        self.dy = tf.constant(rng.normal(size=self.run_dense(self.x, self.values).shape), dtype)

    def run(self, x, values):
        """Returns the outputs, computed with the active weights."""
        if self.is_dense:
            return products.matmul(x, values, self.structure)
        return products.conv2d(x, values, self.structure, kernel_size=self.kernel[:2], **self.options)

    def run_dense(self, x, values):
        """Returns the outputs, computed with the dense kernel."""
        kernel = _make_kernel(values, self.structure.index, self.kernel)
        if self.is_dense:
            return x @ kernel
        kernel = _dilate(kernel, self.options["dilations"])
        return tf.nn.conv2d(x, kernel, self.options["strides"], self.options["padding"].upper())

    def products(self):
        """Returns the outputs, and the gradients of the inputs and of the values."""
        return self.differentiate(self.run)

    def differentiate(self, function):
        """Returns the outputs of a function, and the gradients of the inputs and of the values."""
        with tf.GradientTape() as tape:
            tape.watch([self.x, self.values])
            y = function(self.x, self.values)
        return [y, *tape.gradient(y, [self.x, self.values], self.dy)]

    def differentiate_twice(self, function):
        """Returns a Hessian-vector product of a loss that is not quadratic in the outputs."""
        with tf.GradientTape() as outer:
            outer.watch([self.x, self.values])
            with tf.GradientTape() as inner:
                inner.watch([self.x, self.values])
                loss = tf.reduce_sum(tf.tanh(function(self.x, self.values)) * self.dy)
            gradients = inner.gradient(loss, [self.x, self.values])
            product = sum(tf.reduce_sum(tf.sin(gradient)) for gradient in gradients)
        return outer.gradient(product, [self.x, self.values])


def _check_close(actual, expected, tolerance=1e-10):
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * 10)


def _check_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", range(25))
def test_convolution_and_its_gradients(seed):
    case = Case(seed)
    _check_close(case.products(), case.differentiate(case.run_dense))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25, 400))
def test_convolution_and_its_gradients_in_many_shapes(seed):
    case = Case(seed)
    _check_close(case.products(), case.differentiate(case.run_dense))


@pytest.mark.parametrize("seed", range(15))
def test_matmul_and_its_gradients(seed):
    case = Case(seed, is_dense=True)
    _check_close(case.products(), case.differentiate(case.run_dense))


@pytest.mark.parametrize(("seed", "is_dense"), [(1, False), (4, False), (3, False), (5, False), (0, True)])
def test_second_derivatives(seed, is_dense):
    case = Case(seed, is_dense=is_dense, largest=12)
    _check_close(case.differentiate_twice(case.run), case.differentiate_twice(case.run_dense), 1e-9)


@pytest.mark.parametrize(("seed", "is_dense"), [(1, False), (2, False), (3, False), (2, True), (3, True)])
@pytest.mark.parametrize("block", [3, 4, 8])
def test_masks_of_blocks(seed, is_dense, block):
    case = Case(seed, is_dense=is_dense, largest=16)
    rows, columns = int(np.prod(case.kernel[:-1])), case.kernel[-1]
    coarse = np.random.default_rng(seed).random([-(-rows // block), -(-columns // block)]) < 0.4
    mask = np.kron(coarse, np.ones([block, block], bool))[:rows, :columns]
    case.structure = products.find_structure(mask.reshape(case.kernel))
    case.values = tf.random.stateless_normal(case.structure.index.shape, [seed, 0], dtype=tf.float64)
    _check_close(case.products(), case.differentiate(case.run_dense))


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_single_precision(seed):
    case = Case(seed, dtype=tf.float32)
    _check_close(case.products(), case.differentiate(case.run_dense), 2e-4)


# Sizes at which tiles, blocks of channels and parts of sums are many.
LARGE = [
    (2, [56, 56, 64], 3, 64, 1, 0.1),
    (8, [14, 14, 256], 3, 256, 1, 0.05),
    (8, [56, 56, 64], 1, 128, 2, 0.1),
    (4, [112, 112, 3], 7, 64, 2, 0.2),
    (130, [16, 16, 32], 3, 32, 2, 0.1),
    (33, [7, 7, 512], 1, 128, 1, 0.1),
]


@pytest.mark.parametrize(("batch", "image", "taps", "outputs", "stride", "density"), LARGE)
def test_layers_of_real_size(batch, image, taps, outputs, stride, density):
    rng = np.random.default_rng(0)
    case = Case(1)
    case.kernel = [taps, taps, image[-1], outputs]
    case.options = {"strides": [stride, stride], "padding": "same", "dilations": [1, 1]}
    case.structure = products.find_structure(_make_mask(rng, case.kernel, density))
    case.x = tf.constant(rng.normal(size=[batch, *image]), tf.float32)
    case.values = tf.constant(rng.normal(size=case.structure.index.shape), tf.float32)
    case.dy = tf.constant(rng.normal(size=case.run(case.x, case.values).shape), tf.float32)
    for one, other in zip(case.products(), case.differentiate(case.run_dense), strict=True):
        assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()


def test_rows_beyond_the_second_level_cache():
    rng = np.random.default_rng(0)
    mask = rng.random([9000, 70]) < 0.02
    structure = products.find_structure(mask)
    x, dy = tf.constant(rng.normal(size=[130, 9000])), tf.constant(rng.normal(size=[130, 70]))
    values = tf.constant(rng.normal(size=structure.index.shape))
    kernel = _make_kernel(values, structure.index, mask.shape)
    _check_close([products.matmul(x, values, structure)], [x @ kernel])
    _check_close([products.matmul_transposed(dy, values, structure)], [dy @ tf.transpose(kernel)])
    _check_close([products.matmul_values(x, dy, structure)], [tf.boolean_mask(tf.transpose(x) @ dy, mask)])


@pytest.fixture
def threads():
    yield library.use_threads
    library.use_threads(0)


@pytest.mark.parametrize(("seed", "is_dense"), [(2, False), (4, False), (6, False), (1, True)])
def test_number_of_threads_changes_no_bit(seed, is_dense, threads):
    case = Case(seed, is_dense=is_dense, dtype=tf.float32)
    threads(1)
    expected = case.products()
    for count in (2, 3, 7, 1):
        threads(count)
        for _ in range(3):
            _check_equal(case.products(), expected)


def test_products_of_several_threads_at_once(threads):
    threads(3)
    cases = [Case(seed, dtype=tf.float32) for seed in (2, 4, 7, 8)]
    expected = [case.products() for case in cases]

    def repeat(case):
        return [case.products() for _ in range(10)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for results, one in zip(pool.map(repeat, cases), expected, strict=True):
            for result in results:
                _check_equal(result, one)


def test_products_after_a_fork(threads):
    threads(2)
    case = Case(2, dtype=tf.float32)
    expected = [t.numpy() for t in case.products()]
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(one.numpy(), other) for one, other in zip(case.products(), expected, strict=True))
        os._exit(0 if same else 1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    _check_equal(case.products(), expected)


def test_structure_of_a_mask():
    mask = np.zeros([2, 2, 3], bool)
    mask[0, 0, 1] = mask[0, 1, 0] = mask[0, 1, 1] = mask[1, 1, 1] = True
    structure = products.find_structure(mask)
    expected = products.Structure(
        index=[1, 3, 4, 10],
        row_pointers=[0, 1, 3, 3, 4],
        row_outputs=[1, 0, 1, 1],
        column_pointers=[0, 1, 4, 4],
        column_rows=[1, 0, 1, 3],
        column_values=[1, 0, 2, 3],
    )
    _check_equal(structure, expected)


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_structure_without_and_with_all_weights(density):
    structure = products.find_structure(np.full([3, 4], bool(density)))
    assert structure.index.shape == [int(12 * density)]
    assert structure.row_pointers.shape == [4]
    assert structure.column_pointers.shape == [5]


def test_change_of_the_mask_is_seen_in_a_graph():
    mask = tf.Variable(np.eye(4, dtype=bool))

    @tf.function
    def find(flip):
        if flip:
            mask.assign(tf.logical_not(mask))
        structure = products.find_structure(mask)
        return structure.index, products.matmul(tf.eye(4), tf.ones(tf.shape(structure.index)), structure)

    for flip in (False, False, True, False, True):
        index, y = find(tf.constant(flip))
        np.testing.assert_array_equal(index, np.flatnonzero(mask.numpy()))
        np.testing.assert_array_equal(y, mask.numpy().astype(np.float32))


def test_one_operation_for_masks_that_take_turns():
    masks = [np.eye(4, dtype=bool), ~np.eye(4, dtype=bool), np.ones([2, 8], bool), np.ones([8, 2], bool)]
    for _ in range(3):
        for mask in masks:
            structure = products.find_structure(mask)
            np.testing.assert_array_equal(structure.index, np.flatnonzero(mask))
            assert structure.row_pointers.shape == [mask.shape[0] + 1]


def test_structure_is_not_changed_by_its_receivers():
    mask = tf.constant(np.eye(4, dtype=bool))

    @tf.function
    def spoil():
        structure = products.find_structure(mask)
        return structure.index + 1, structure

    for _ in range(3):
        plus_one, structure = spoil()
        np.testing.assert_array_equal(plus_one, [1, 6, 11, 16])
        np.testing.assert_array_equal(structure.index, [0, 5, 10, 15])
        variable = tf.Variable(structure.index)
        variable.assign_add(tf.ones_like(variable))


def test_graph_loop_and_branch():
    case = Case(2)
    expected = case.products()

    @tf.function
    def loop(use):
        total = [tf.zeros_like(t) for t in expected]
        for _ in tf.range(3):
            if use:
                total = [a + b for a, b in zip(total, case.products(), strict=True)]
        return total

    _check_close(loop(tf.constant(True)), [3 * t for t in expected])
    _check_equal(loop(tf.constant(False)), [0 * t for t in expected])


def test_static_shapes():
    structure = products.find_structure(np.ones([3, 3, 4, 5], bool))

    @tf.function(input_signature=[tf.TensorSpec([None, 9, None, 4]), tf.TensorSpec([180])])
    def run(x, values):
        with tf.GradientTape() as tape:
            tape.watch([x, values])
            y = products.conv2d(x, values, structure, kernel_size=3, strides=[2, 1], padding="valid")
        dx, dvalues = tape.gradient(y, [x, values])
        assert y.shape.as_list() == [None, 4, None, 5]
        assert dx.shape.as_list() == [None, 9, None, 4]
        assert dvalues.shape == [180]
        return dx

    assert run(tf.ones([2, 9, 10, 4]), tf.ones([180])).shape == [2, 9, 10, 4]


@pytest.mark.parametrize(
    ("shape", "padding"), [([0, 5, 5, 2], "same"), ([3, 0, 5, 2], "same"), ([3, 2, 2, 2], "valid")]
)
def test_nothing_to_do(shape, padding):
    structure = products.find_structure(np.ones([3, 3, 2, 4], bool))
    options = {"kernel_size": 3, "padding": padding}
    x, values = tf.ones(shape), tf.ones([72])
    with tf.GradientTape() as tape:
        tape.watch([x, values])
        y = products.conv2d(x, values, structure, **options)
    dx, dvalues = tape.gradient(y, [x, values])
    assert y.shape == tf.nn.conv2d(x, tf.ones([3, 3, 2, 4]), 1, padding.upper()).shape
    np.testing.assert_array_equal(dx, np.zeros(shape))
    np.testing.assert_array_equal(dvalues, np.zeros([72]))


def test_infinities_and_nans_pass():
    structure = products.find_structure(np.array([[True, False], [True, True]]))
    x = tf.constant([[np.inf, 1.0], [0.0, np.nan], [1.0, 2.0]])
    y = products.matmul(x, tf.constant([1.0, 2.0, 3.0]), structure).numpy()
    np.testing.assert_array_equal(y, [[np.inf, 3.0], [np.nan, np.nan], [5.0, 6.0]])


def _identity():
    return products.find_structure(np.eye(4, dtype=bool))


WRONG = {
    "output too high": lambda s: s._replace(row_outputs=s.row_outputs + 3),
    "output negative": lambda s: s._replace(row_outputs=s.row_outputs - 1),
    "pointers fall": lambda s: s._replace(row_pointers=tf.constant([0, 3, 2, 1, 4])),
    "pointers too high": lambda s: s._replace(row_pointers=s.row_pointers * 1000),
    "pointers negative": lambda s: s._replace(row_pointers=s.row_pointers - 1),
    "pointers too short": lambda s: s._replace(row_pointers=s.row_pointers[:-1]),
    "no pointers": lambda s: s._replace(row_pointers=s.row_pointers[:0]),
    "pointers are a matrix": lambda s: s._replace(row_pointers=s.row_pointers[None]),
    "too few outputs": lambda s: s._replace(row_outputs=s.row_outputs[:-1]),
    "no columns": lambda s: s._replace(column_pointers=s.column_pointers[:0]),
    "too few columns": lambda s: s._replace(column_pointers=s.column_pointers[:-1]),
    "wrong type": lambda s: s._replace(row_outputs=tf.cast(s.row_outputs, tf.int64)),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG.keys())
def test_wrong_structure_is_an_error(spoil):
    structure = spoil(_identity())
    for function, first, second in (
        (products.matmul, tf.ones([2, 4]), tf.ones([4])),
        (products.matmul_transposed, tf.ones([2, 4]), tf.ones([4])),
        (products.matmul_values, tf.ones([2, 4]), tf.ones([2, 4])),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError):
            function(first, second, structure)


@pytest.mark.parametrize(
    ("x", "values"),
    [
        ([2, 3], [4]),
        ([4], [4]),
        ([2, 4, 4], [4]),
        ([2, 4], [3]),
        ([2, 4], [4, 1]),
        ([2, 4], []),
    ],
)
def test_wrong_shapes_are_errors(x, values):
    for function in (products.matmul, products.matmul_transposed):
        with pytest.raises(tf.errors.InvalidArgumentError):
            function(tf.ones(x), tf.ones(values), _identity())
    with pytest.raises(tf.errors.InvalidArgumentError):
        products.matmul_values(tf.ones(x), tf.ones([5, 4]), _identity())


@pytest.mark.parametrize("first", [tf.float64, tf.float16, tf.int32])
def test_wrong_types_are_errors(first):
    with pytest.raises(tf.errors.InvalidArgumentError):
        products.matmul(tf.ones([2, 4], first), tf.ones([4]), _identity())


def test_wrong_convolutions_are_errors():
    structure = products.find_structure(np.ones([3, 3, 2, 4], bool))
    x, values, dy = tf.ones([1, 5, 5, 2]), tf.ones([72]), tf.ones([1, 3, 3, 4])
    with pytest.raises(tf.errors.InvalidArgumentError, match="channels"):
        products.conv2d(tf.ones([1, 5, 5, 3]), values, structure, kernel_size=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="multiple"):
        products.conv2d(x, values, structure, kernel_size=[3, 4])
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        products.conv2d(x[0], values, structure, kernel_size=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="dy"):
        products.conv2d_transposed(dy, values, structure, [6, 5], kernel_size=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="negative"):
        products.conv2d_transposed(dy, values, structure, [-6, 5], kernel_size=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="dy"):
        products.conv2d_values(x, dy[:, :2], structure, kernel_size=3)
    for options in ({"strides": 0}, {"dilations": -1}, {"strides": 1 << 40}):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            products.conv2d(x, values, structure, kernel_size=3, **options)
    with pytest.raises(ValueError, match="padding"):
        products.conv2d(x, values, structure, kernel_size=3, padding="causal")
    with pytest.raises(ValueError, match="kernel_size"):
        products.conv2d(x, values, structure, kernel_size=[3, 3, 3])


def test_random_structures_never_crash():
    rng = np.random.default_rng(0)
    x, dy, refused = tf.ones([5, 6, 7, 2]), tf.ones([5, 6, 7, 3]), 0
    for _ in range(300):
        count = int(rng.integers(0, 9))
        pointers = rng.integers(-1, count + 2, 19)
        pointers = np.sort(pointers) if rng.random() < 0.7 else pointers
        pointers[0], pointers[-1] = (0, count) if rng.random() < 0.7 else (pointers[0], pointers[-1])
        structure = products.Structure(
            tf.zeros([count], tf.int32),
            tf.constant(pointers, tf.int32),
            tf.constant(rng.integers(-1 if rng.random() < 0.3 else 0, 3, count), tf.int32),
            tf.zeros([4], tf.int32),
            tf.zeros([count], tf.int32),
            tf.zeros([count], tf.int32),
        )
        try:
            products.conv2d(x, tf.ones([count]), structure, kernel_size=3, padding="same")
            products.conv2d_transposed(dy, tf.ones([count]), structure, [6, 7], kernel_size=3, padding="same")
            products.conv2d_values(x, dy, structure, kernel_size=3, padding="same")
        except tf.errors.InvalidArgumentError:
            refused += 1
    assert 0 < refused < 300
