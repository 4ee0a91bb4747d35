"""The package as its users have it: a wheel, installed in an environment of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build_wheel(folder: Path) -> Path:
    """Builds the wheel from a copy of the sources, which a build would else litter."""
    tree = folder / "tree"
    shutil.copytree(ROOT / "sparse_lib", tree / "sparse_lib", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(tree))
    (built,) = folder.glob("*.whl")
    return built


def install(wheel: Path, folder: Path) -> Path:
    """Makes an environment in a folder, installs the wheel there and returns where its packages lie."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    _pip("install", "--no-deps", "--target", str(site), str(wheel))
    # The dependencies come from this environment, as a plain path: an editable install in it
    # stays unseen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf8")
    return site


def run(site: Path, arguments: list[str], folder: Path) -> str:
    """Runs the environment's Python in a folder and returns what it prints."""
    python = site.parents[2] / "bin" / "python"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["TF_CPP_MIN_LOG_LEVEL"] = "3"
    done = subprocess.run(
        [python, *arguments], check=False, stdout=subprocess.PIPE, text=True, cwd=folder, env=variables
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    subprocess.run(command, check=True)
