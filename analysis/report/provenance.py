"""Where a report comes from: date, command, commit, versions, data, seeds."""

import datetime
import pathlib
import subprocess
from collections.abc import Mapping
from importlib import metadata

from analysis.records.runs import Runs
from sparse_lib.experiment.runtime.versions import versions

ROOT = pathlib.Path(__file__).resolve().parents[2]
_DRAWN_BY = ("matplotlib", "altair")


def collect(runs: Runs, command: str) -> dict[str, str]:
    """Describes the origin of a report.

    Args:
      runs: all runs of the report.
      command: that wrote it; empty if it is not known.

    Returns:
      Text by heading; headings without a text are left out.
    """
    seeds = sorted({int(seed) for seed in runs.runs["seed"].dropna()})
    data = runs.runs["data"].value_counts()
    found = {
        "Written": datetime.date.today().isoformat(),
        "Command": command,
        "Commit": find_commit(ROOT),
        "Versions": _join_versions({**versions(), **{name: metadata.version(name) for name in _DRAWN_BY}}),
        "Runs made with": "; ".join(_versions_of_runs(runs)),
        "Data": ", ".join(f"{name} ({n} run{'s' if n > 1 else ''})" for name, n in data.items()),
        "Seeds": ", ".join(map(str, seeds)),
    }
    return {heading: text for heading, text in found.items() if text}


def find_commit(root: pathlib.Path) -> str:
    """Names the commit of a checkout.

    Args:
      root: its directory.

    Returns:
      The hash, with a note if files differ from it; empty outside of git.
    """
    top = _ask_git(root, "rev-parse", "--show-toplevel")
    # A folder inside of another repository is none of its commits.
    if not top or pathlib.Path(top) != root.resolve():
        return ""
    commit = _ask_git(root, "rev-parse", "HEAD")
    changed = commit and _ask_git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}, with uncommitted changes" if changed else commit


def _ask_git(root: pathlib.Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _versions_of_runs(runs: Runs) -> list[str]:
    """Returns the versions that the runs have recorded, each set once."""
    recorded = runs.results.get("versions", ())
    return list(dict.fromkeys(_join_versions(own) for own in recorded if isinstance(own, Mapping)))


def _join_versions(own: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {version}" for name, version in own.items())
