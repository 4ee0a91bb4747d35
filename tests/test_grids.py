"""One-liners of the published grids: the commands that make prints, and what it says of wrong names."""

import pathlib
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--dry-run", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["cifar10.erk.rigl", "DENSITY=0.2", "SEED=3"],
            "--gin_config=configs/networks/wrn_22_2.gin,configs/methods/rigl.gin "
            "--gin_bindings=masks.distribution='erk' --over SPARSITY=0.8 --seeds=3-3 --out=runs/cifar10.erk.rigl",
        ),
        (
            ["mnist.Uniform.SET", "DENSITY=0.05 0.1", "SEEDS=5", "SWEEP_ARGS=--where=slurm"],
            "--gin_config=configs/set.gin --gin_bindings=data.name='mnist' --gin_bindings=masks.distribution='uniform' "
            "--over SPARSITY=0.95,0.9 --seeds=5 --out=runs/mnist.uniform.set --where=slurm",
        ),
        (["mlp.dense"], "--gin_config=mlp_configs/dense.gin --seeds=0-0 --out=runs/mlp.dense"),
        (
            ["mlp.lottery", "DATA=mnist"],
            "--gin_config=mlp_configs/lottery.gin --gin_bindings=data.name='mnist' --seeds=0-0",
        ),
    ],
)
def test_a_target_is_a_sweep(words, expected):
    done = make(*words)
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout.splitlines()[-1])
    assert command[1:3] == ["-m", "analysis.sweep"]
    assert " ".join(command[3:]).startswith(expected)
    files = next(word for word in command if word.startswith("--gin_config=")).partition("=")[2].split(",")
    assert all((ROOT / file).is_file() for file in files)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10.erk.rgl", "cifar10 has no method rgl; it has "),
        ("cifar10.erq.rigl", "there is no distribution erq; there are uniform er erk."),
        ("mnist.erk.prune", "prune takes no distribution; write mnist.prune."),
        ("cifar.erk.rigl", "cifar is no network of the grids; there are cifar10 cifar100 imagenet mnist "),
        ("tset", "there is no target tset; make lists them."),
    ],
)
def test_a_wrong_name_is_one_line(name, message):
    done = make(name)
    assert done.returncode != 0
    assert f"*** {message}" in done.stderr.strip().splitlines()[-1]
