"""A case: the runs that may be compared, with everything that was measured on them."""

import dataclasses
import re
from collections.abc import Sequence

from analysis.claims import paper, quantities
from analysis.records import landscapes, spectra
from analysis.records.checkpoints import CheckpointReader
from analysis.records.runs import Runs
from analysis.similarity import tables


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """The runs of one setting and sparsity, with everything that was measured on them.

    Attributes:
      setting: network and data.
      sparsity: fraction.
      runs: the runs.
      paths: interpolations of these runs.
      spectra: of these runs.
      predicted: their logits.
      evidence: for the claims.
      verdicts: on the claims.
      reader: reads their checkpoints.
    """

    setting: str
    sparsity: float
    runs: Runs
    paths: landscapes.Paths
    spectra: spectra.Spectra
    predicted: tables.Predictions
    evidence: quantities.Evidence
    verdicts: Sequence[paper.Verdict]
    reader: CheckpointReader

    @property
    def title(self) -> str:
        """Names the case."""
        return f"{self.setting}, {100 * self.sparsity:.4g}% sparse" if self.sparsity else self.setting

    @property
    def slug(self) -> str:
        """Names its folder."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.setting} {100 * self.sparsity:.4g}".lower())


def make_case(
    setting: str, sparsity: float, runs: Runs, paths: landscapes.Paths, measured_spectra: spectra.Spectra
) -> Case:
    """Computes everything that the sections show.

    Args:
      setting: network and data.
      sparsity: fraction.
      runs: of the case.
      paths: interpolations of all runs.
      measured_spectra: of all runs.

    Returns:
      The case.
    """
    names = set(runs.runs["run"])
    own_paths = landscapes.Paths(*(frame[frame["run"].isin(names)] for frame in paths))
    own_spectra = spectra.Spectra(*(frame[frame["run"].isin(names)] for frame in measured_spectra))
    predicted = tables.predictions(runs)
    reader = CheckpointReader()
    gathered = quantities.gather(runs, predicted, own_paths, own_spectra, reader)
    verdicts = paper.judge(gathered)
    return Case(setting, sparsity, runs, own_paths, own_spectra, predicted, gathered, verdicts, reader)
