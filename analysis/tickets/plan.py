"""The size of a study of lottery tickets: networks, levels, rewinding, branches."""

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sparse_lib.experiment.jobs.protocol import ROOT
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files, gin_text

LEARNING_RATE = "lr"
_INCLUDE = re.compile(r"^\s*include\s+['\"](.+)['\"]", re.MULTILINE)
_STEPS = "training.total_steps"
# Length of a run where nothing sets it, the default of the setting (step).
_DEFAULT_STEPS = 5000


class Plan(NamedTuple):
    """The size of a study.

    Attributes:
      out: directory of all runs and results.
      network: name of a file of configs/networks.
      protocol: name of a file of configs/protocols; empty for none, None for `mnist` unless the file of the network
        includes a protocol of its own.
      data: gin name of the data set; empty takes that of the network's file.
      levels: prunings after the dense network (count).
      rewind: step of the dense run whose weights every level starts from (step), or `lr`: every level goes on from the
        weights of the one before, with the learning rates of a whole run.
      seeds: of the chains of levels (count).
      steps: length of every run (step).
      fraction: of the active weights that a level removes (fraction).
      scope: `layer` or `global`, what the weights are ranked in.
      output_rate: factor of the fraction in the output layer.
      branches: names of other trainings from the masks of a level.
      branch_levels: levels of the branches; empty for all.
      landscape: analyses along the levels, of `landscape.KINDS`.
      bindings: gin bindings of all runs.
      runs_in_process: runs of one process, which shares the start among them (count).
    """

    out: pathlib.Path
    network: str = "mlp"
    protocol: str | None = None
    data: str = "digits"
    levels: int = 10
    rewind: int | str = 0
    seeds: int = 3
    steps: int = 3000
    fraction: float = 0.2
    scope: str = "layer"
    output_rate: float = 0.5
    branches: tuple[str, ...] = ()
    branch_levels: tuple[int, ...] = ()
    landscape: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    runs_in_process: int = 5

    def run_directory(self, seed: int, level: int, branch: str = "") -> pathlib.Path:
        """Returns the directory of a run.

        Args:
          seed: of the chain.
          level: prunings before it (count).
          branch: empty for the chain itself.
        """
        suffix = f"_{branch.replace(':', '_')}" if branch else ""
        return self.out / f"seed_{seed}" / f"level_{level:02d}{suffix}"

    @property
    def seed_numbers(self) -> range:
        """The seeds, from 1."""
        return range(1, self.seeds + 1)

    @property
    def gin_files(self) -> list[pathlib.Path]:
        """The gin files of network and protocol, below the checkout."""
        protocol = self.protocol
        if protocol is None:
            protocol = "" if _brings_protocol(self.network) else "mnist"
        names = [("networks", self.network), ("protocols", protocol)]
        return [pathlib.Path("configs", folder, f"{name}.gin") for folder, name in names if name]


def read_steps(paths: Sequence[pathlib.Path]) -> int:
    """Reads the length of a run from gin files, of which later ones win.

    Args:
      paths: of the files, below the checkout.

    Returns:
      The length (step).

    Raises:
      RunError: if there is no such file.
    """
    found = [values[_STEPS] for path in paths for values in _read(ROOT / path) if isinstance(values.get(_STEPS), int)]
    return int(found[-1]) if found else _DEFAULT_STEPS


def _read(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise RunError(f"There is no {path.relative_to(ROOT)}; {path.parent.relative_to(ROOT)} has {_list(path)}.")
    text = files.read_text(path, "restore it from the repository")
    for name in _INCLUDE.findall(text):
        yield from _read(path.parent / name)
    yield gin_text.parse(text)


def _brings_protocol(network: str) -> bool:
    path = ROOT / "configs" / "networks" / f"{network}.gin"
    # A file that is missing is named by whoever reads it.
    return path.is_file() and any("protocols/" in name for name in _INCLUDE.findall(path.read_text(encoding="utf8")))


def _list(path: pathlib.Path) -> str:
    return ", ".join(sorted(other.stem for other in path.parent.glob("*.gin")))
