"""Grids: their settings and directories, pruned runs of tickets, growth, and the table."""

import csv
import io
import pathlib

import pytest

from analysis.claims.statistics import t_interval
from analysis.sweep import __main__, grid, runs, table, values
from sparse_lib.experiment.jobs import configurations, places, stages
from sparse_lib.experiment.runtime.errors import SettingError
from tests.analysis.sweep import training

OUT = pathlib.Path("runs/sweep")


def make(configs=("configs/rigl.gin",), over=(), seeds=(0,), out=OUT, bindings=()) -> grid.Sweep:
    files = [tuple(text.split(",")) for text in configs]
    settings = grid.make_settings(files, [values.parse_dimension(text) for text in over])
    return grid.Sweep(out, settings, tuple(seeds), tuple(bindings))


def test_settings_are_the_product_and_named_by_what_differs():
    sweep = make(["configs/rigl.gin", "mlp_configs/set.gin"], ["SPARSITY=0.8,0.9", "lenet5.hidden_sizes=(6,16,120,84)"])
    assert [setting.name for setting in sweep.settings] == [
        "rigl,SPARSITY=0.8,hidden_sizes=6-16-120-84",
        "rigl,SPARSITY=0.9,hidden_sizes=6-16-120-84",
        "mlp_set,SPARSITY=0.8,hidden_sizes=6-16-120-84",
        "mlp_set,SPARSITY=0.9,hidden_sizes=6-16-120-84",
    ]
    both = make(["configs/networks/wrn_22_2.gin,configs/methods/rigl.gin"], ["masks.scope=1", "pruning.scope='a b/c'"])
    assert both.settings[0].name == "wrn_22_2+rigl,masks.scope=1,pruning.scope=a-b-c"
    assert grid.make_settings([], [])[0].name == "default"


def test_settings_that_would_share_a_directory_are_refused():
    with pytest.raises(SettingError, match="share the directory rigl,a=x-y"):
        make(over=["m.a='x y','x/y'"])
    with pytest.raises(SettingError, match="--over A is there twice"):
        make(over=["A=1", "A=2"])


def test_commands_are_what_a_person_would_type():
    sweep = make(over=["SPARSITY=0.8,0.9"], seeds=(0, 1), bindings=["training.total_steps=1000"])
    found = grid.list_stages(sweep, grid.Planner(sweep, "train.py"))
    assert [stage.name for stage in found] == [f"rigl,SPARSITY={s}/seed_{seed}" for s in (0.8, 0.9) for seed in (0, 1)]
    assert found[1].command == (
        "train.py",
        "--logdir=runs/sweep/rigl,SPARSITY=0.8/seed_1",
        "--seed=1",
        "--gin_config=configs/rigl.gin",
        "--gin_bindings=training.total_steps=1000",
        "--gin_bindings=SPARSITY=0.8",
    )


def flags(stage: stages.Stage) -> list[str]:
    return [word.removeprefix("--gin_bindings=") for word in stage.command if word.startswith("--gin_bindings=")]


def test_a_ticket_waits_for_the_pruned_run_of_its_sparsity_and_seed():
    sweep = make(
        ["configs/lottery.gin", "configs/rigl_from_prune.gin"],
        ["SPARSITY=0.8,0.9", "mask_updater.init_drop_fraction=0.1,0.3", "UPDATE_FREQ=50"],
        seeds=(0, 1),
    )
    found = grid.list_stages(sweep, grid.Planner(sweep, "train.py"))
    pruned = [stage for stage in found if not stage.after]
    # What moves masks changes no pruned run.
    assert [stage.name for stage in pruned] == [
        f"prune,SPARSITY={s}/seed_{seed}" for s in (0.8, 0.9) for seed in (0, 1)
    ]
    assert len(found) == 4 + 2 * 2 * 2 * 2
    ticket = next(s for s in found if s.name == "lottery,SPARSITY=0.9,init_drop_fraction=0.3,UPDATE_FREQ=50/seed_1")
    assert ticket.after == ("prune,SPARSITY=0.9/seed_1",)
    assert flags(ticket)[-2:] == [
        "network.mask_init_path='runs/sweep/prune,SPARSITY=0.9/seed_1'",
        "network.weight_init_path='runs/sweep/prune,SPARSITY=0.9/seed_1/ckpt-0'",
    ]


@pytest.mark.parametrize(
    ("config", "pruned", "paths"),
    [
        ("configs/rigl.gin", None, {}),
        ("configs/lottery_rewind.gin", "configs/prune.gin", {"mask_init_path": "", "weight_init_path": "/ckpt-500"}),
        ("mlp_configs/scratch.gin", "mlp_configs/prune.gin", {"mask_init_path": ""}),
        (
            "configs/networks/wrn_22_2.gin,configs/methods/lottery.gin",
            "configs/networks/wrn_22_2.gin,configs/methods/prune.gin",
            {"mask_init_path": "", "weight_init_path": "/ckpt-0"},
        ),
        (
            "configs/networks/wrn_22_2.gin,configs/methods/scratch.gin",
            "configs/networks/wrn_22_2.gin,configs/methods/prune.gin",
            {"mask_init_path": ""},
        ),
    ],
)
def test_pruned_runs_are_known_from_gin_files(config, pruned, paths):
    configs = tuple(config.split(","))
    assert configurations.read(configs, ()).pruned == paths
    if pruned:
        assert configurations.name_pruning_files(configs) == tuple(pruned.split(","))
        # What is named by hand is not made.
        assert not configurations.read(
            configs, ("PRUNED_RUN='mine'", "PRUNED_START='mine/ckpt-0'")[: len(paths)]
        ).pruned


@pytest.mark.parametrize(
    ("configs", "over", "message"),
    [
        (
            ["configs/rigl.gin"],
            ["SPARSIT=0.9"],
            "rigl,SPARSIT=0.9: Nothing uses the macro SPARSIT (did you mean 'SPARSITY'?)",
        ),
        (["configs/rigl.gin"], ["mask_updater.drop=1"], "rigl,drop=1: Configurable 'mask_updater' doesn't have a para"),
        (["configs/rigl.gin"], ["training.total_steps=-5"], "rigl,total_steps=-5: "),
        (["configs/rgl.gin"], [], "rgl: There is no gin file configs/rgl.gin"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(configs, over, message, tmp_path, capsys):
    words = [*(f"--gin_config={config}" for config in configs), *(f"--over={text}" for text in over)]
    assert __main__.main([*words, f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def run(sweep: grid.Sweep, script: str) -> None:
    planner = grid.Planner(sweep, script)
    runs.run(sweep, planner, grid.list_stages(sweep, planner), 2, places.LOCAL)


@pytest.fixture
def script(tmp_path, monkeypatch) -> str:
    monkeypatch.setattr(stages, "POLL_SECONDS", 0.02)
    return training.write_script(tmp_path)


def test_a_sweep_grows_by_what_is_new(tmp_path, script, capsys):
    out = tmp_path / "out"
    run(make(over=["SPARSITY=0.8"], out=out), script)
    assert training.read_history(out) == ["rigl,SPARSITY=0.8/seed_0"]
    run(make(over=["SPARSITY=0.8,0.9"], seeds=(0, 1), out=out), script)
    made = training.read_history(out)
    assert sorted(made) == [f"rigl,SPARSITY={s}/seed_{seed}" for s in (0.8, 0.9) for seed in (0, 1)]
    capsys.readouterr()
    run(make(over=["SPARSITY=0.8,0.9"], seeds=(0, 1), out=out), script)
    assert training.read_history(out) == made

    # Accuracies are 0.8 and 0.801; Student's factor for two values is 12.706.
    half = 12.706 * 0.0005
    printed = capsys.readouterr().out
    assert ["rigl", "0.8", "2", "80.05", "±", f"{100 * half:.2f}", "90.05", "±", "0.64", "0.8000"] in [
        line.split() for line in printed.splitlines()
    ]
    rows = list(csv.DictReader(io.StringIO((out / "sweep.csv").read_text())))
    assert [row["SPARSITY"] for row in rows] == ["0.8", "0.9"]
    assert float(rows[0]["test_accuracy_low"]) == pytest.approx(0.8005 - half, abs=1e-5)
    assert float(rows[1]["validation_accuracy_mean"]) == pytest.approx(0.9005)
    assert float(rows[1]["sparsity"]) == 0.9


def test_other_bindings_need_another_directory(tmp_path, script):
    out = tmp_path / "out"
    run(make(out=out), script)
    with pytest.raises(Exception, match="choose another --out for other settings"):
        run(make(out=out, bindings=["training.total_steps=7"]), script)


def test_tickets_come_after_their_pruned_run(tmp_path, script):
    out = tmp_path / "out"
    run(make(["configs/lottery.gin", "configs/scratch.gin"], seeds=(0, 1), out=out), script)
    made = training.read_history(out)
    assert sorted(made) == [f"{name}/seed_{seed}" for name in ("lottery", "prune", "scratch") for seed in (0, 1)]
    for seed in (0, 1):
        assert made.index(f"prune/seed_{seed}") < made.index(f"lottery/seed_{seed}")


def test_validation_accuracy_of_the_result_wins(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "validation_accuracy": 0.25}\n')
    (tmp_path / "result.json").write_text("{}")
    assert table.read_validation(tmp_path) == 0.25
    (tmp_path / "result.json").write_text('{"validation_accuracy": 0.5}')
    assert table.read_validation(tmp_path) == 0.5


def test_one_run_has_no_interval():
    assert table.format_interval(t_interval([0.5])) == "50.00"
    assert table.format_interval(t_interval([])) == "-"


def test_help_and_list(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--over" in shown and "--tune" in shown and "--where" in shown
    words = ["--gin_config=configs/set.gin", "--over=SPARSITY=0.5", "--seeds=2", f"--out={tmp_path / 'out'}", "--list"]
    assert __main__.main([*words, "--", "--strategy=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("python ") and line.endswith("--strategy=cpu") for line in lines)
    assert not (tmp_path / "out").exists()
