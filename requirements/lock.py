"""Resolves `requirements/*.in` to `requirements/*.lock`: exact versions, no hosts and no paths.

Run it with the Python that the locks are for, from anywhere in the checkout::

    python3.11 requirements/lock.py [cpu cuda bench docs tracking tpu]

`pip install --dry-run --report` does the resolving; nothing is installed.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BASE = "cpu"
ON_TOP_OF_BASE = ("cuda", "bench", "docs", "tracking")
NAMES = (BASE, *ON_TOP_OF_BASE, "tpu")


def normalized(name: str) -> str:
    """Returns a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(report: dict) -> dict[str, str]:
    """Reads the versions out of a pip installation report.

    Args:
      report: the parsed JSON of `pip install --report`.

    Returns:
      Version per normalized name, without what was asked for by a local path and without the
      label of a local build (`2.13.0+cpu` is a build of `2.13.0`).
    """
    found = {}
    for item in report["install"]:
        metadata = item["metadata"]
        if "dir_info" not in item["download_info"]:
            found[normalized(metadata["name"])] = metadata["version"].split("+")[0]
    return found


def read_lock(path: Path) -> dict[str, str]:
    """Returns the pins of a lock file: version per normalized name."""
    lines = path.read_text(encoding="utf8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def resolve(source: Path, constraints: Path | None) -> dict[str, str]:
    """Asks pip for the versions that satisfy a requirements file.

    Args:
      source: the `.in` file; a `.` in it is the checkout.
      constraints: a lock file whose versions must be kept, or None.

    Returns:
      Version per normalized name, dependencies included.

    Raises:
      subprocess.CalledProcessError: When pip finds no solution; pip has then said why on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), "--requirement", str(source)]
        if constraints is not None:
            command += ["--constraint", str(constraints)]
        subprocess.run(command, check=True, cwd=FOLDER.parent)
        return pins(json.loads(report.read_text(encoding="utf8")))


def lock(name: str) -> Path:
    """Writes one lock file.

    Args:
      name: one of `NAMES`. What goes on top of the base keeps its versions and lists only what
        it adds.

    Returns:
      The file that was written.
    """
    source, target = FOLDER / f"{name}.in", FOLDER / f"{name}.lock"
    base = FOLDER / f"{BASE}.lock" if name in ON_TOP_OF_BASE else None
    found = resolve(source, base)
    known = read_lock(base) if base else {}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    asked = source.read_text(encoding="utf8").splitlines()
    lines = [f"# Written by requirements/lock.py for Python {version} on {sys.platform}."]
    lines += [line for line in asked if line.startswith("#")]
    lines += [f"-r {base.name}"] if base else []
    lines += [f"{key}=={found[key]}" for key in sorted(found) if key not in known]
    target.write_text("\n".join(lines) + "\n", encoding="utf8")
    return target


def main(names: list[str]) -> int:
    """Writes the named lock files, or all of them; returns the exit status."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        choice = ", ".join(NAMES)
        print(f"lock.py: no lock is called {unknown[0]}; choose from {choice}", file=sys.stderr)
        return 2
    for name in names or NAMES:
        print(lock(name).relative_to(FOLDER.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
