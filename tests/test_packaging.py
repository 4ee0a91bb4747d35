"""The package as others get it: its metadata, its pinned versions and the wheel."""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests import installed
from tests.installed import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
REQUIREMENTS = ROOT / "requirements"
LOCKS = sorted(REQUIREMENTS.glob("*.lock"))
PIN = re.compile(r"(?P<name>[a-z0-9]+(-[a-z0-9]+)*)==(?P<version>[0-9][0-9a-z.]*)")


def _names(requirements: list[str]) -> set[str]:
    """Returns the normalized distribution names of requirement strings."""
    heads = [re.match(r"[A-Za-z0-9._-]+", line) for line in requirements]
    return {re.sub(r"[-_.]+", "-", head[0]).lower() for head in heads if head}


def _pins(lock: Path) -> dict[str, str]:
    matches = [PIN.fullmatch(line) for line in lock.read_text(encoding="utf8").splitlines()]
    return {match["name"]: match["version"] for match in matches if match}


def test_locks_exist():
    assert {lock.stem for lock in LOCKS} == {source.stem for source in REQUIREMENTS.glob("*.in")}
    assert {"cpu", "cuda", "tpu", "bench", "docs", "tracking"} <= {lock.stem for lock in LOCKS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_lock_holds_nothing_but_exact_versions(lock):
    lines = lock.read_text(encoding="utf8").splitlines()
    meant = [line for line in lines if not line.startswith("#") and line != "-r cpu.lock"]
    assert [line for line in meant if not PIN.fullmatch(line)] == []
    assert len(_pins(lock)) == len(meant)


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("cpu", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]),
        ("bench", PROJECT["optional-dependencies"]["bench"]),
        ("docs", PROJECT["optional-dependencies"]["docs"]),
        ("tracking", PROJECT["optional-dependencies"]["tracking"]),
    ],
)
def test_lock_pins_what_the_project_asks_for(lock, wanted):
    assert _names(wanted) <= set(_pins(REQUIREMENTS / f"{lock}.lock"))


def test_tpu_replaces_nothing_but_tensorflow():
    asked = (REQUIREMENTS / "tpu.in").read_text(encoding="utf8").splitlines()
    wanted = _names([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
    assert _names(asked) == wanted - {"tensorflow"} | {"tensorflow-tpu"}
    assert "tensorflow" not in _pins(REQUIREMENTS / "tpu.lock")


@pytest.mark.parametrize("lock", ["cuda", "bench", "docs"])
def test_lock_on_top_of_the_base_adds_only(lock):
    assert not set(_pins(REQUIREMENTS / f"{lock}.lock")) & set(_pins(REQUIREMENTS / "cpu.lock"))


def test_citation_names_this_version_and_both_papers():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf8")
    assert f'version: "{PROJECT["version"]}"' in text
    assert "arXiv:2010.03533" in text
    assert "arXiv:1911.11134" in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return installed.build_wheel(tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_the_sources_the_data_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    files = [path for ending in ("py", "json", "c", "h") for path in (ROOT / "sparse_lib").rglob(f"*.{ending}")]
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    wanted |= {"sparse_lib/py.typed", "sparse_lib/execution/native/sparse_products.so"}
    info = f"sparse_lib-{PROJECT['version']}.dist-info"
    assert {name for name in held if not name.startswith(info)} == wanted
    assert f"{info}/licenses/LICENSE" in held


def test_wheel_is_for_this_platform_and_every_python(wheel):
    assert re.fullmatch(rf"sparse_lib-{PROJECT['version']}-py3-none-linux_\w+\.whl", wheel.name)


def test_wheel_imports_in_an_empty_folder(wheel, tmp_path):
    site = installed.install(wheel, tmp_path / "env")
    (tmp_path / "empty").mkdir()
    printed = installed.run(site, ["-c", "import sparse_lib; print(sparse_lib.__file__)"], tmp_path / "empty")
    assert printed.strip() == str(site / "sparse_lib" / "__init__.py")
