"""Spectra of the checkpoints of small runs, against an explicit Hessian."""

import json
import pathlib
import sys

import gin
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

import hessian
import train
from sparse_lib import curvature
from sparse_lib.experiment.analyses import checkpoint_spectrum, estimated_spectrum, exact_spectrum, spectra
from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.config.analyses import HessianSettings
from sparse_lib.experiment.runtime.errors import Interrupted, RunError
from sparse_lib.experiment.storage import run_directory
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training.build import build_model
from sparse_lib.objective import Objective
from tests.experiment import tiny

ROOT = pathlib.Path(__file__).parents[3]
RIGL = {
    "training": {**tiny.TRAINING, "save_update_pairs": True},
    "masks": {"distribution": "uniform", "sparsity": 0.9},
    "mask_updater": {"update_alg": "rigl", "update_freq": 10, "init_drop_fraction": 0.3},
}


@pytest.fixture(scope="module")
def of_run():
    return tiny.experiment(**{name: dict(values) for name, values in RIGL.items()})


@pytest.fixture(scope="module")
def finished(of_run, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "rigl"
    tiny.train(of_run, directory)
    return directory


def settings(**values) -> HessianSettings:
    return HessianSettings(**{"batch_size": 100, "examples_at_once": 40, **values})


def content(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("ckpt-*")}


def explicit(of_run, directory: pathlib.Path, number: int) -> np.ndarray:
    """The Hessian of the active weights and biases, all rows of it by automatic differentiation."""
    model = build_model(of_run)
    reader = Reader(directory / f"ckpt-{number}")
    params = [tf.constant(reader.read("model", v.path)) for v in model.trainable_variables]
    train = of_run.dataset.train
    flat = tf.concat([tf.reshape(p, [-1]) for p in params], 0)

    @tf.function
    def hessian(flat):
        with tf.GradientTape() as outer:
            outer.watch(flat)
            parts = tf.split(flat, [tf.size(p) for p in params])
            shaped = [tf.reshape(part, p.shape) for part, p in zip(parts, params, strict=True)]
            with tf.GradientTape() as inner:
                inner.watch(shaped)
                loss = Objective(model).mean_loss(shaped, train.images[:100], train.labels[:100])
            gradient = tf.concat([tf.reshape(g, [-1]) for g in inner.gradient(loss, shaped)], 0)
            chosen = tf.gather(gradient, active)
        return tf.gather(outer.jacobian(chosen, flat, experimental_use_pfor=False), active, axis=1)

    masks = {name: reader.read("masks", name) for name in reader.names("masks")}
    active = np.flatnonzero(
        np.concatenate(
            [
                masks.get(".".join(v.path.split("/")[-2:]), np.ones(v.shape, bool)).ravel()
                for v in model.trainable_variables
            ]
        )
    )
    return hessian(flat).numpy()


def test_every_checkpoint_has_its_spectrum(of_run, finished):
    before = content(finished)
    found = spectra.compute(of_run, finished, settings())
    assert list(found) == [-20, -19, -10, -9, 0, 12, 24]
    for number, summary in found.items():
        arrays = np.load(finished / "hessian" / f"ckpt-{number}.npz")
        values = arrays["eigenvalues"]
        assert summary["parameters"] == len(values)
        assert (summary["lambda_max"], summary["lambda_min"]) == (values.max(), values.min())
        assert summary["step"] == abs(number)
        assert summary["trace"] == pytest.approx(values.sum())
    assert content(finished) == before


@pytest.mark.parametrize("number", [-10, 24])
def test_it_is_the_spectrum_of_the_explicit_hessian(of_run, finished, number):
    spectra.compute(of_run, finished, settings())
    matrix = explicit(of_run, finished, number)
    arrays = np.load(finished / "hessian" / f"ckpt-{number}.npz")
    wanted = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    np.testing.assert_allclose(arrays["eigenvalues"], wanted, atol=1e-5 * np.abs(wanted).max())
    vectors = arrays["eigenvectors"]
    np.testing.assert_allclose(matrix @ vectors, vectors * wanted[::-1][: vectors.shape[1]], atol=1e-3)


def test_change_across_mask_updates(of_run, finished):
    found = spectra.compute(of_run, finished, settings())
    records = [json.loads(line) for line in (finished / "hessian" / "mask_updates.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20]
    for record in records:
        before, after = found[1 - record["step"]], found[-record["step"]]
        assert record["lambda_max_before"] == before["lambda_max"]
        assert record["lambda_max_change"] == pytest.approx(after["lambda_max"] - before["lambda_max"])
        assert record["trace_change"] == pytest.approx(after["trace"] - before["trace"])


@pytest.mark.parametrize(
    ("shape", "count"), [((28, 28, 1), 510), ((20,), 1000), ((32, 32, 3), 130), ((224, 224, 3), 2), ((999, 999, 3), 1)]
)
def test_a_pass_over_larger_images_holds_fewer(shape, count):
    assert checkpoint_spectrum.examples_at_once(shape) == count


def test_what_is_there_stays(of_run, finished):
    folder = finished / "hessian"
    spectra.compute(of_run, finished, settings())
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("ckpt-*")}
    # How many rows are computed at once is no other result.
    spectra.compute(of_run, finished, settings(rows_at_once=3))
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("ckpt-*")} == times
    with pytest.raises(RunError, match=r"\(batch_size is 100 there and 60 here\); name another hessian.folder"):
        spectra.compute(of_run, finished, settings(batch_size=60))
    spectra.compute(of_run, finished, settings(ckpt_ids=[24], batch_size=60, folder="sixty"))
    assert sorted(path.name for path in (finished / "sixty").iterdir()) == ["ckpt-24.json", "ckpt-24.npz"]
    spectra.compute(of_run, finished, settings(ckpt_ids=[24], overwrite=True))
    assert (folder / "ckpt-24.json").stat().st_mtime_ns > times["ckpt-24.json"]


def test_another_process_in_the_run_is_waited_for(of_run, finished):
    lock = run_directory.lock(finished)
    with lock, pytest.raises(RunError, match="Another process works in"):
        spectra.compute(of_run, finished, settings(ckpt_ids=[24], folder="locked"))
    assert not (finished / "locked").exists()


def test_missing_checkpoints_are_named(of_run, finished, caplog, tmp_path):
    found = spectra.compute(of_run, finished, settings(ckpt_ids=[12, 13, 99]))
    assert list(found) == [12]
    assert "has no ckpt-13, ckpt-99; the others are taken" in caplog.text
    with pytest.raises(RunError, match="none of the checkpoints of hessian.ckpt_ids; it has ckpt--20"):
        spectra.compute(of_run, finished, settings(ckpt_ids=[13]))
    with pytest.raises(RunError, match="holds no checkpoint; train the run first"):
        spectra.compute(of_run, tmp_path, settings())


def test_a_hessian_that_is_not_symmetric_is_said(of_run, finished, caplog, monkeypatch):
    hessian = exact_spectrum.exact.hessian

    def lopsided(*args, **options):
        return hessian(*args, **options)._replace(symmetry_error=2e-3)

    spectra.compute(of_run, finished, settings(ckpt_ids=[24], folder="symmetric"))
    assert "is symmetric to" not in caplog.text
    monkeypatch.setattr(exact_spectrum.exact, "hessian", lopsided)
    spectra.compute(of_run, finished, settings(ckpt_ids=[24], folder="lopsided"))
    assert "is symmetric to 2.0e-03 only" in caplog.text


@pytest.mark.slow
def test_blocks_masked_weights_and_other_matrices(of_run, finished):
    def values(folder, **chosen):
        spectra.compute(of_run, finished, settings(ckpt_ids=[24], folder=folder, **chosen))
        return np.load(finished / folder / "ckpt-24.npz")["eigenvalues"]

    active = values("active")
    dense = values("dense", is_dense_spectrum=True)
    total = sum(v.shape.num_elements() for v in map(tf.convert_to_tensor, build_model(of_run).trainable_variables))
    assert len(dense) == total
    np.testing.assert_array_equal(np.sort(np.concatenate([active, np.zeros(total - len(active))])), dense)
    block = values("block", layers="dense2")
    # Eigenvalues of a principal block interlace (Cauchy).
    assert active.min() <= block.min() and block.max() <= active.max()
    assert 0 < len(block) < len(active)
    names = ("gauss_newton", "fisher", "empirical_fisher")
    found = {name: values(name, operator=name, layers="dense2") for name in names}
    for semidefinite in found.values():
        assert len(semidefinite) == len(block) and semidefinite.min() > -1e-5 * semidefinite.max()
    # For softmax cross-entropy they are one matrix.
    np.testing.assert_allclose(found["fisher"], found["gauss_newton"], atol=1e-4)


def test_estimates_agree_with_the_exact_spectrum(of_run, finished):
    exact = spectra.compute(of_run, finished, settings(ckpt_ids=[24], folder="exact"))[24]
    chosen = {"method": "lanczos", "n_eigenvalues": 4, "lanczos_steps": 30, "max_probes": 20, "precision": 0.01}
    found = spectra.compute(of_run, finished, settings(ckpt_ids=[24], folder="lanczos", **chosen))[24]
    assert found["lambda_max"] == pytest.approx(exact["lambda_max"], rel=1e-4)
    assert found["lambda_min"] == pytest.approx(exact["lambda_min"], rel=1e-3, abs=1e-6 * exact["lambda_max"])
    assert abs(found["trace"] - exact["trace"]) < 4 * found["errors"]["trace"]
    assert found["gradient_overlap"] == pytest.approx(
        spectra.compute(of_run, finished, settings(ckpt_ids=[24], folder="four", n_eigenvalues=4))[24][
            "gradient_overlap"
        ],
        abs=1e-3,
    )
    arrays = np.load(finished / "lanczos" / "ckpt-24.npz")
    assert np.trapezoid(arrays["density"], arrays["grid"]) == pytest.approx(1, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(1, id="the ends", marks=pytest.mark.slow),
        pytest.param(2, id="four probes"),
        pytest.param(3, id="eight probes", marks=pytest.mark.slow),
    ],
)
def test_interrupted_estimate_goes_on_to_the_same_bits(of_run, finished, monkeypatch, kept):
    chosen = {"method": "lanczos", "n_eigenvalues": 2, "lanczos_steps": 10, "max_probes": 12, "precision": 1e-6}
    spectra.compute(of_run, finished, settings(ckpt_ids=[12], folder="whole", **chosen))
    put = estimated_spectrum.Parts.put

    there = []

    def put_and_stop(self, number, **arrays):
        put(self, number, **arrays)
        there.append(number)
        if len(there) == kept:
            raise Interrupted(15, number)

    monkeypatch.setattr(estimated_spectrum.Parts, "put", put_and_stop)
    folder = f"parts{kept}"
    with pytest.raises(Interrupted):
        spectra.compute(of_run, finished, settings(ckpt_ids=[12], folder=folder, **chosen))
    assert not (finished / folder / "ckpt-12.json").exists()
    kept = len(there) + 10
    spectra.compute(of_run, finished, settings(ckpt_ids=[12], folder=folder, **chosen))
    # Nothing is computed twice.
    assert there == [0, 4, 8, 12]
    one, other = (np.load(finished / name / "ckpt-12.npz") for name in ("whole", folder))
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])
    summaries = [spectra.read_summary(finished / name, 12) for name in ("whole", folder)]
    assert summaries[0] == summaries[1]
    assert [path.name for path in (finished / folder).iterdir() if path.name.startswith(".")] == []


def test_stability_limit_is_of_the_learning_rate_and_momentum(of_run, finished):
    found = spectra.compute(of_run, finished, settings())
    rate = 0.1 * (1 + np.cos(np.pi * 12 / 24)) / 2
    assert found[12]["learning_rate"] == pytest.approx(rate)
    assert found[12]["stability_limit"] == pytest.approx(curvature.stability_limit(rate, 0.9), rel=1e-5)
    assert found[24]["stability_limit"] is None


@pytest.mark.slow
def test_both_command_lines_do_it(tmp_path, monkeypatch, capsys, caplog):
    run = ["--seed=1", "--gin_config=mlp_configs/rigl.gin"]
    bindings = (
        "training.total_steps=20",
        "training.jit_compile=False",
        "mlp.hidden_sizes=(12, 8)",
        "training.save_freq=10",
        "training.log_freq=20",
    )
    training = [*run, *(f"--gin_bindings={b}" for b in bindings)]
    common = [
        f"--logdir={tmp_path / 'run'}",
        "--gin_config=mlp_configs/hessian.gin",
        "--gin_bindings=hessian.batch_size=50",
    ]

    def call(entry_point, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{entry_point.__name__}.py", *arguments])
        gin.clear_config()
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
            cli.run(entry_point.main)
        return caught.value.code

    monkeypatch.chdir(ROOT)
    train.define_mode()
    assert call(hessian, *common) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error:") and "holds no run" in told
    assert call(train, f"--logdir={tmp_path / 'run'}", *training) == 0
    assert call(hessian, *common) == 0
    assert "ckpt-20: exact, structured" in caplog.text
    assert call(train, "--mode=hessian", *common, "--gin_bindings=hessian.folder='other'") == 0
    gin.clear_config()
    for number in (0, 10, 20):
        one, other = (np.load(tmp_path / "run" / f / f"ckpt-{number}.npz") for f in ("hessian", "other"))
        np.testing.assert_array_equal(one["eigenvalues"], other["eigenvalues"])
