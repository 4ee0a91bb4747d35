"""Images of masks and symmetry statistics, read back from what a run writes."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparse_lib import mask_symmetry
from sparse_lib.experiment.networks import ResNet
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from tests.experiment import tiny

SHORT = {"total_steps": 8, "log_freq": 8, "save_freq": 8}


@pytest.fixture(scope="module", params=["mlp", "lenet5"])
def trained(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    logs = {"log_mask_images": True, "log_mask_symmetry": True}
    updates = {"update_alg": "set", "update_freq": 3}
    made = tiny.experiment(
        request.param, masks={"sparsity": 0.7}, mask_updater=updates, training={**tiny.TRAINING, **SHORT, **logs}
    )
    tiny.train(made, directory)
    return request.param, directory


def masks_of(directory, step):
    reader = Reader(directory / f"ckpt-{step}")
    return {name.replace(".", "/"): reader.read("masks", name) for name in reader.names("masks")}


def test_images_are_the_masks(trained):
    name, directory = trained
    events = EventAccumulator(str(directory / files.TENSORBOARD)).Reload()
    last = masks_of(directory, 8)
    drawn = {f"mask/{kernel}" for kernel in last} | ({"input_pixels/dense1/kernel"} if name == "mlp" else set())
    assert set(events.Tags()["images"]) == drawn
    for kernel, mask in last.items():
        shown = events.Images(f"mask/{kernel}")
        assert [image.step for image in shown] == [0, 8]
        decoded = tf.io.decode_png(shown[-1].encoded_image_string).numpy()[..., 0]
        np.testing.assert_array_equal(decoded, 255 * mask.reshape(-1, mask.shape[-1]))
    if name == "mlp":
        decoded = tf.io.decode_png(events.Images("input_pixels/dense1/kernel")[-1].encoded_image_string).numpy()
        counts = last["dense1/kernel"].sum(axis=1).reshape(28, 28)
        np.testing.assert_allclose(decoded[..., 0], 255 * counts / counts.max(), atol=0.51)


def test_symmetry_is_that_of_the_masks(trained):
    _, directory = trained
    masks = masks_of(directory, 8)
    named = {name: masks[name] for name in sorted(masks)}
    counts = dict(zip(named, mask_symmetry.count_symmetry(list(named.values())), strict=True))
    logged = tiny.lines(directory)[-1]
    for name, count in counts.items():
        assert logged[f"zeroed_neurons/{name}"] == count.zeroed
        assert logged[f"unique_neurons/{name}"] == count.unique
    total = mask_symmetry.sum_symmetry(list(counts.values()))
    assert (logged["zeroed_neurons"], logged["unique_neurons"]) == (total.zeroed, total.unique)
    assert logged["mask_permutations_log10"] == pytest.approx(total.log10_permutations)


def test_nothing_is_added_unasked(tmp_path):
    tiny.train(tiny.experiment(training={**tiny.TRAINING, **SHORT}), tmp_path)
    assert not EventAccumulator(str(tmp_path / files.TENSORBOARD)).Reload().Tags()["images"]
    assert not [name for name in tiny.lines(tmp_path)[-1] if "neurons" in name or "permutations" in name]


@pytest.mark.parametrize(("name", "value"), [("log_mask_symmetry", True), ("recycle_freq", 5)])
def test_what_needs_a_chain_is_refused_for_other_networks_before_any_file(tmp_path, name, value):
    made = tiny.experiment(
        sizes=ResNet(depth=8, width=0.25), masks={"sparsity": 0.5}, training={**tiny.TRAINING, name: value}
    )
    with pytest.raises(SettingError, match=f"training.{name}={value} does not apply to this network: Model"):
        tiny.train(made, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*"))
