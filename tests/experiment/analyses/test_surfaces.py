"""Pictures of the loss: solutions lie at their plain losses, and a killed grid ends like one that was not."""

import json
import pathlib

import gin
import numpy as np
import pytest
from sklearn.decomposition import PCA

from sparse_lib.experiment.analyses import grids, solutions, surfaces
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.config.analyses import SurfaceSettings
from sparse_lib.experiment.runtime.errors import Interrupted, RunError, SettingError
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import build_evaluation_scope, build_model
from tests.experiment import tiny
from tests.experiment.interruptions import asked_to_stop, power_cut

SPARSE = {"masks": {"sparsity": 0.6}, "mask_updater": {"update_alg": "rigl", "update_freq": 5}}
NORM = type(tiny.SIZES["mlp"])(hidden_sizes=(12, 8), use_batch_norm=True)


CORNERS = (6, 12, 24)


def experiment(kind="mlp"):
    training = {**tiny.TRAINING, "save_freq": 6}
    sizes = NORM if kind == "norm" else None
    return tiny.experiment("mlp", sizes=sizes, training=training, **SPARSE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of 24 steps with checkpoints at 0, 6, 12, 18 and 24, made when they are asked for first."""
    made = {}

    def of(kind="mlp"):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            tiny.train(experiment(kind), made[kind])
        return made[kind]

    return of


def draw(runs, directory, kind="mlp", name="surface", overwrite=False, **settings):
    settings = SurfaceSettings(**{"points": 3, **settings})
    common = {"directory": directory, "overwrite": overwrite}
    if name == "surface":
        return surfaces.surface(experiment(kind), settings, checkpoint=runs(kind), **common)
    if name == "plane":
        corners = [runs(kind) / f"ckpt-{step}" for step in CORNERS]
        return surfaces.plane(experiment(kind), settings, three=corners, **common)
    return surfaces.trajectory(experiment(kind), settings, run=runs(kind), **common)


def grid(directory, name="surface"):
    with np.load(directory / f"{name}.npz") as stored:
        return dict(stored)


def values_of(kind, checkpoint):
    made = experiment(kind)
    model = build_model(made)
    return solutions.read(checkpoint, model, made.network.kernels(model))


@pytest.mark.parametrize("kind", ["mlp", "norm"])
def test_the_centre_is_plain_evaluation_to_the_last_bit(kind, runs, tmp_path):
    summary = draw(runs, tmp_path, kind, splits=("train", "validation", "test"))
    plain = run.evaluate(experiment(kind), runs(kind))
    found = grid(tmp_path)
    for split in ("train", "validation", "test"):
        for what in ("loss", "accuracy"):
            assert found[f"{what}_{split}"][1, 1] == plain[f"{split}_{what}"]
            assert summary["solutions"][0]["plain"][split][what] == plain[f"{split}_{what}"]
        assert len(np.unique(found[f"loss_{split}"])) == 9
    assert summary["batch_norm"] == ("keep" if kind == "norm" else None)
    assert summary["complete"] and summary == json.loads((tmp_path / "surface.json").read_text())


def test_directions_are_filter_normalised_and_live_on_the_mask(runs, tmp_path, monkeypatch):
    drawn = {}

    def keep(experiment, settings, model, picture, directory, *, overwrite):
        drawn[settings.space, settings.others] = picture.plane
        return {"lowest": {}}

    monkeypatch.setattr(grids, "evaluate", keep)
    for space, others in (("active", "zero"), ("all", "scale")):
        draw(runs, tmp_path, space=space, others=others)
    solution = values_of("mlp", runs())
    for direction in (drawn["active", "zero"].x, drawn["active", "zero"].y):
        for part, value, mask in zip(direction, solution.values, solution.masks, strict=True):
            if mask is None:
                assert not part.any()
            else:
                assert not part[~mask].any()
                np.testing.assert_allclose(np.linalg.norm(part, axis=0), np.linalg.norm(value, axis=0), rtol=1e-6)
    for part, value, mask in zip(drawn["all", "scale"].x, solution.values, solution.masks, strict=True):
        assert np.linalg.norm(part) == pytest.approx(np.linalg.norm(value), rel=1e-6)
        assert mask is None or mask.all() or part[~mask].any()


def test_the_seed_decides(runs, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw(runs, tmp_path / name, seed=seed, splits=("test",))
    a, b, c = (grid(tmp_path / name)["loss_test"] for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any() and a[1, 1] == c[1, 1]


def test_a_part_of_the_examples(runs, tmp_path):
    draw(runs, tmp_path, examples=7, splits=("train",))
    found = grid(tmp_path)
    assert "loss_test" not in found
    made = experiment()
    model = build_model(made)
    solution = solutions.read(runs(), model, made.network.kernels(model))
    for variable, value in zip(model.trainable_variables, solution.values, strict=True):
        variable.assign(value)
    right = np.argmax(model(made.dataset.train.images[:7]).numpy(), -1) == made.dataset.train.labels[:7]
    assert found["accuracy_train"][1, 1] == right.mean()


@pytest.mark.parametrize("kind", ["mlp", "norm"])
def test_three_solutions_lie_in_their_plane(kind, runs, tmp_path):
    summary = draw(runs, tmp_path, kind, "plane", batch_norm="keep" if kind == "norm" else None)
    three = [values_of(kind, runs(kind) / f"ckpt-{step}") for step in CORNERS]
    flat = np.stack([np.concatenate([v.ravel() for v in s.values]).astype(np.float64) for s in three])
    places = np.array([s["coordinates"] for s in summary["solutions"]])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        expected = np.linalg.norm(flat[one] - flat[other])
        assert np.linalg.norm(places[one] - places[other]) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(places[0], [0, 0])
    assert places[1, 1] == 0 < places[2, 1]
    for step, told in zip(CORNERS, summary["solutions"], strict=True):
        plain = run.evaluate(experiment(kind), runs(kind) / f"ckpt-{step}")
        assert told["plain"]["test"] == {"loss": plain["test_loss"], "accuracy": plain["test_accuracy"]}
        # The statistics of the first solution are no others' than its own.
        if kind == "mlp" or step == CORNERS[0]:
            assert told["on_plane"]["test"]["loss"] == pytest.approx(plain["test_loss"], rel=1e-6)
        else:
            assert told["on_plane"] != told["plain"]
        assert told["distance_to_plane"] < 1e-6
    found = grid(tmp_path, "plane")
    extent = places[:, 0].max() - places[:, 0].min()
    assert (found["xs"][0], found["xs"][-1]) == pytest.approx(
        (places[:, 0].min() - extent / 4, places[:, 0].max() + extent / 4)
    )


def test_statistics_are_estimated_again_on_a_plane(runs, tmp_path):
    summary = draw(runs, tmp_path, "norm", "plane", batch_norm_batches=2, batch_size=50)
    assert summary["batch_norm"] == "reestimate"
    made = experiment("norm")
    model = build_model(made)
    estimate = solutions.make_batch_norm_estimator(model, made.dataset.train, batches=2, batch_size=50, seed=0)
    evaluate = solutions.PointEvaluator(model, made.dataset, build_evaluation_scope(made, model))
    solution = values_of("norm", runs("norm") / f"ckpt-{CORNERS[0]}")
    expected = evaluate(solution.values, estimate(solution.values))["test"]
    assert summary["solutions"][0]["on_plane"]["test"] == expected._asdict()
    assert summary["solutions"][0]["plain"]["test"] != expected._asdict()


@pytest.mark.parametrize("space", ["active", "all"])
def test_the_way_of_a_run_in_its_principal_plane(space, runs, tmp_path):
    summary = draw(runs, tmp_path, name="trajectory", space=space)
    way = [values_of("mlp", runs() / f"ckpt-{step}") for step in (0, 6, 12, 18, 24)]
    masks = way[-1].masks
    flat = [
        np.concatenate(
            [(v if m is None or space == "all" else v * m).ravel() for v, m in zip(s.values, masks, strict=True)]
        )
        for s in way
    ]
    offsets = np.stack(flat).astype(np.float64) - flat[-1]
    pca = PCA().fit(offsets[:-1])
    np.testing.assert_allclose(summary["explained_variance"], pca.explained_variance_ratio_, atol=1e-9)
    places = np.array([s["coordinates"] for s in summary["solutions"]])
    np.testing.assert_allclose(np.abs(places), np.abs(offsets @ pca.components_[:2].T), atol=1e-6)
    assert summary["steps"] == [0, 6, 12, 18, 24]
    last = summary["solutions"][-1]
    assert last["plain"] == last["on_plane"] and last["distance_to_plane"] == 0
    plain = run.evaluate(experiment(), runs() / "ckpt-6")
    assert summary["solutions"][1]["plain"]["train"]["loss"] == plain["train_loss"]
    rest = offsets[1] - offsets[1] @ pca.components_[:2].T @ pca.components_[:2]
    if space == "all":
        assert summary["solutions"][1]["distance_to_plane"] == pytest.approx(np.linalg.norm(rest), rel=1e-5)


def test_chosen_checkpoints_of_a_way(runs, tmp_path):
    summary = draw(runs, tmp_path, name="trajectory", ckpt_ids=(24, 0, 12, 6))
    assert summary["steps"] == [0, 6, 12, 24]
    with pytest.raises(RunError, match="There is no checkpoint"):
        draw(runs, tmp_path / "other", name="trajectory", ckpt_ids=(0, 6, 13, 24))


@pytest.mark.parametrize(("how", "error"), [(power_cut, ZeroDivisionError), (asked_to_stop, Interrupted)])
@pytest.mark.parametrize("name", ["surface", "plane", "trajectory"])
def test_a_killed_grid_goes_on(name, how, error, runs, tmp_path, monkeypatch):
    draw(runs, tmp_path / "whole", name=name)
    original, points = solutions.PointEvaluator.__call__, []

    def deadly(self, values, statistics):
        points.append(values)
        if len(points) == 5:
            how()
        return original(self, values, statistics)

    with monkeypatch.context() as patch:
        patch.setattr(solutions.PointEvaluator, "__call__", deadly)
        with pytest.raises(error):
            draw(runs, tmp_path / "broken", name=name)
    half = grid(tmp_path / "broken", name)
    assert half["done"].tolist() == [True, False, False] and np.isnan(half["loss_test"][1:]).all()
    unfinished = json.loads((tmp_path / "broken" / f"{name}.json").read_text())
    assert not unfinished["complete"] and {"checkpoint", "coordinates"} == set(unfinished["solutions"][0])

    points.clear()
    with monkeypatch.context() as patch:
        patch.setattr(solutions.PointEvaluator, "__call__", lambda *a: points.append(a) or original(*a))
        summary = draw(runs, tmp_path / "broken", name=name)
    assert len(points) == 6 + 2 * len(summary["solutions"])
    whole, broken = (grid(tmp_path / folder, name) for folder in ("whole", "broken"))
    assert set(whole) == set(broken)
    for key, values in whole.items():
        np.testing.assert_array_equal(values, broken[key])
    texts = [(tmp_path / folder / f"{name}.json").read_text() for folder in ("whole", "broken")]
    assert texts[0] == texts[1]


def test_what_is_there_is_not_computed_again(runs, tmp_path, monkeypatch):
    first = draw(runs, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(solutions.PointEvaluator, "__call__", lambda *_: power_cut())
        assert draw(runs, tmp_path) == first
        # What does not touch a surface without batch norm does not make it another one.
        assert draw(runs, tmp_path, margin=0.5, batch_size=3) == first
        with pytest.raises(RunError, match=r"radius is 1\.0 there and 2\.0 here.*--overwrite"):
            draw(runs, tmp_path, radius=2.0)
    other = draw(runs, tmp_path, radius=2.0, overwrite=True)
    assert other["settings"]["radius"] == 2.0 and grid(tmp_path)["xs"].tolist() == [-2, 0, 2]


def test_losses_that_are_no_numbers_are_told_and_kept(runs, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        summary = draw(runs, tmp_path, radius=1e38, splits=("test",))
    assert summary["not_finite"] > 0 and summary["complete"]
    assert "not finite at" in caplog.text
    assert np.isfinite(grid(tmp_path)["loss_test"][1, 1])
    assert summary["lowest"]["test"]["loss"] <= grid(tmp_path)["loss_test"][1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 2}, "surface.points=2 must be at least 3"),
        ({"radius": 0.0}, "must be above 0"),
        ({"margin": -0.1}, "must be at least 0"),
        ({"seed": -1}, "must be at least 0"),
        ({"splits": ("train", "tests")}, "must name one or more of train, validation, test"),
        ({"splits": ()}, "must name one or more"),
        ({"examples": 0}, "must be at least 1"),
        ({"batch_norm_batches": 0}, "must be at least 1"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(SettingError, match=message):
        SurfaceSettings(**settings)


def test_a_surface_needs_a_point_in_the_middle(runs, tmp_path):
    with pytest.raises(SettingError, match=r"surface\.points=4 must be odd"):
        draw(runs, tmp_path, points=4)


def test_a_plane_needs_three_solutions(runs, tmp_path):
    with pytest.raises(SettingError, match="three solutions; got 2"):
        surfaces.plane(experiment(), SurfaceSettings(), three=[runs(), runs()], directory=tmp_path)
    with pytest.raises(ValueError, match="lie on a line"):
        surfaces.plane(experiment(), SurfaceSettings(), three=[runs()] * 3, directory=tmp_path)


def test_a_way_needs_checkpoints(tmp_path):
    with pytest.raises(RunError, match="has no checkpoints"):
        surfaces.trajectory(experiment(), SurfaceSettings(), run=tmp_path, directory=tmp_path / "out")


TINY = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(8,)",
    "training.total_steps=12",
    "training.save_freq=3",
    "training.log_freq=6",
    "training.jit_compile=False",
]


@pytest.fixture(scope="module")
def trained(train_by_command, tmp_path_factory):
    """A run as the command line leaves it."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    train_by_command(directory, TINY)
    return directory


def test_the_command_lines(call, trained, tmp_path):
    small = ["--gin_bindings=surface.points=3", f"--logdir={tmp_path}"]
    one, two, three = (f"--solution={trained}/ckpt-{step}" for step in (3, 6, 12))
    assert call("--mode=surface", *small, one, "--seed=7") == (0, "")
    assert call("--mode=plane", *small, one, two, three) == (0, "")
    assert call("--mode=trajectory", *small, f"--run={trained}") == (0, "")
    summaries = {n: json.loads((tmp_path / f"{n}.json").read_text()) for n in ("surface", "plane", "trajectory")}
    assert summaries["surface"]["settings"]["seed"] == 7
    corners = [pathlib.Path(s["checkpoint"]).name for s in summaries["plane"]["solutions"]]
    assert corners == ["ckpt-3", "ckpt-6", "ckpt-12"]
    assert summaries["trajectory"]["steps"] == [0, 3, 6, 9, 12]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--mode=surface"], 2, "--mode=surface takes --solution=CKPT once"),
        (["--mode=surface", "--solution=x", "--solution=y"], 2, "takes --solution=CKPT once"),
        (["--mode=plane", "--solution=x"], 2, "--mode=plane takes --solution=CKPT three times"),
        (["--mode=trajectory", "--solution=x"], 2, "--mode=trajectory takes --run=DIR"),
        (["--mode=trajectory", "--run=x", "--solution=x"], 2, "and nothing else"),
        (["--mode=surface", "--solution=nowhere/ckpt-3"], 1, "There is no checkpoint nowhere/ckpt-3"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, status, message, call, tmp_path):
    code, said = call(f"--logdir={tmp_path}/out", *arguments)
    assert code == status and message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["configs", "mlp_configs"])
def test_the_gin_file_says_what_the_defaults_are(folder):
    path = pathlib.Path(__file__).parents[3] / folder / "surface.gin"
    gin.clear_config()
    gin_files.parse([str(path)], [])
    assert gin_names.surface() == SurfaceSettings()
    gin.clear_config()
