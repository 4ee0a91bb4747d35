"""Quantities that claims are about: one number per run, from the frames of a case."""

import dataclasses
from collections.abc import Callable, Collection

import numpy as np
import pandas as pd

from analysis.records import methods
from analysis.records.checkpoints import CheckpointReader
from analysis.records.landscapes import Paths
from analysis.records.runs import Runs
from analysis.records.spectra import Spectra
from analysis.similarity import tables
from sparse_lib.experiment.jobs.early_gradient import find_early_window


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """The frames of one case.

    Attributes:
      runs: runs of one setting and sparsity, and the dense ones.
      pairs: from `tables.within_methods`.
      to_parents: from `tables.to_parents`.
      distances: from `tables.distances`.
      barriers: from `landscapes.load_paths`.
      curvature_changes: from `spectra.load`, across mask updates.
    """

    runs: Runs
    pairs: pd.DataFrame
    to_parents: pd.DataFrame
    distances: pd.DataFrame
    barriers: pd.DataFrame
    curvature_changes: pd.DataFrame

    def of_methods(self, names: Collection[str]) -> "Evidence":
        """Selects the runs of some methods, variants included; the frames of measurements stay."""
        about = self.runs.runs
        if about.empty:
            return self
        return dataclasses.replace(self, runs=self.runs.only(about.loc[about["method"].isin(names), "run"]))


# Returns one row per run: method, seed, value.
Quantity = Callable[[Evidence], pd.DataFrame]


def gather(
    runs: Runs, predicted: tables.Predictions, paths: Paths, spectra: Spectra, reader: CheckpointReader | None = None
) -> Evidence:
    """Computes the frames of a case that the claims need.

    Args:
      runs: runs of the case.
      predicted: their logits.
      paths: interpolations, including those of other cases.
      spectra: Hessian spectra, including those of other cases.
      reader: of the checkpoints; None takes a new one.

    Returns:
      The evidence.
    """
    names = set(runs.runs["run"])
    return Evidence(
        runs=runs,
        pairs=tables.within_methods(runs, predicted),
        to_parents=tables.to_parents(runs, predicted),
        distances=tables.distances(runs, reader),
        barriers=paths.barriers[paths.barriers["run"].isin(names)],
        curvature_changes=spectra.updates[spectra.updates["run"].isin(names)],
    )


def select_plain(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """Selects the rows of a method, without those of its variants, which have other labels."""
    return frame[(frame["method"] == method) & (frame["label"] == methods.label(method))]


def by_cell(evidence: Evidence, frame: pd.DataFrame, method: str) -> dict[tuple[str, int], float]:
    """Selects the values of a method, averaged over runs of one pruned network and seed.

    Args:
      evidence: knows the pruned networks whose masks the runs take.
      frame: columns run, method, label, seed, value.
      method: name of the method; its variants are excluded.

    Returns:
      Value by pruned network, empty for runs without one, and seed; without NaN.
    """
    own = select_plain(frame, method).dropna(subset="value")
    parents = _look_up(evidence, "parent")
    network = own["run"].map(lambda run: parents.get(run) or "")
    means = own["value"].groupby([network, own["seed"]]).mean()
    return {(str(parent), int(seed)): float(value) for (parent, seed), value in means.items()}


def name_failures(evidence: Evidence, runs: Collection[str]) -> str:
    """Names in brackets how many of some runs have not trained; empty if none or if it is not known."""
    outcomes = _look_up(evidence, "outcome")
    found = [outcomes.get(run) for run in dict.fromkeys(runs)]
    counts = {text: found.count(outcome) for outcome, text in methods.FAILURES.items() if outcome in found}
    return f" ({', '.join(f'{n} of {len(found)} {text}' for text, n in counts.items())})" if counts else ""


def _look_up(evidence: Evidence, column: str) -> dict[str, str | None]:
    """Returns a column of the frame of runs by run."""
    about = evidence.runs.runs
    return dict(zip(about["run"], about[column], strict=True)) if column in about else {}


def accuracy(evidence: Evidence) -> pd.DataFrame:
    """Test accuracy of finished runs (fraction)."""
    return _select_value(evidence.runs.results, "test_accuracy")


def accuracy_above_parent(evidence: Evidence) -> pd.DataFrame:
    """Test accuracy of finished runs minus that of the pruned network whose masks they take (fraction)."""
    results = evidence.runs.results
    known = results.set_index("run")["test_accuracy"]
    parents = results["run"].map(evidence.runs.runs.set_index("run")["parent"])
    above = results["test_accuracy"] - parents.map(known).astype(float)
    return _select_value(results.assign(above=above), "above")


def initial_gradient_norm(evidence: Evidence) -> pd.DataFrame:
    """Gradient norm before the first step (nats per unit of weight)."""
    metrics = evidence.runs.metrics
    return _select_value(metrics[metrics["step"] == 0], "gradient_norm")


def early_gradient_norm(evidence: Evidence) -> pd.DataFrame:
    """Mean gradient norm in the tenth of training after the first mask update of all methods (nats per unit of weight).

    Before it, methods that move their masks are what they are compared with. Without such methods, the first tenth.
    """
    frame, first = evidence.runs.metrics, _first_updates(evidence)
    begin = first.max() if len(first) else 0.0
    until = begin + _length_of_early(evidence, frame)
    return _mean_where(evidence, frame, "gradient_norm", frame["step"] > begin, until)


def update_change(evidence: Evidence) -> pd.DataFrame:
    """Mean change of the gradient norm by the mask updates of a tenth of training (nats per unit of weight).

    The tenth begins with the first update of the run.
    """
    frame = evidence.runs.mask_updates
    begin = frame["run"].map(_first_updates(evidence)).astype(float)
    until = begin + _length_of_early(evidence, frame)
    return _mean_where(evidence, frame, "gradient_norm_change", frame["step"] >= begin, until)


def negative_change(evidence: Evidence) -> pd.DataFrame:
    """Mean change of the number of negative eigenvalues of the Hessian by mask updates (count)."""
    return _mean_of_runs(_select_value(evidence.curvature_changes, "negative_change"))


def lowest_change(evidence: Evidence) -> pd.DataFrame:
    """Mean change of the smallest eigenvalue of the Hessian by mask updates."""
    return _mean_of_runs(_select_value(evidence.curvature_changes, "lambda_min_change"))


def disagreement_with_parent(evidence: Evidence) -> pd.DataFrame:
    """Fraction of test images that a run and the pruned network classify differently."""
    return _select_value(evidence.to_parents, "disagreement")


def start_distance(evidence: Evidence) -> pd.DataFrame:
    """L2 distance of initial weights to the pruned network."""
    return _select_value(evidence.distances, "start_l2")


def end_distance(evidence: Evidence) -> pd.DataFrame:
    """L2 distance of final weights to the pruned network."""
    return _select_value(evidence.distances, "end_l2")


def loss_barrier(evidence: Evidence) -> pd.DataFrame:
    """Highest training loss on the line to the pruned network, minus the linear interpolation of the ends (nats).

    The higher end is no reference: nothing is higher than the end of a run that did not train.
    """
    return _barrier(evidence, "loss", "above_line")


def error_barrier(evidence: Evidence) -> pd.DataFrame:
    """Highest training error on the line to the pruned network, minus the mean of the ends (fraction)."""
    return _barrier(evidence, "error", "above_mean")


def _barrier(evidence: Evidence, quantity: str, measure: str) -> pd.DataFrame:
    frame = evidence.barriers
    is_meant = (
        (frame["path"] == "line")
        & frame["to_parent"].eq(True)
        & frame["from_start"].eq(False)
        & (frame["split"] == "train")
        & (frame["quantity"] == quantity)
    )
    return _mean_of_runs(_select_value(frame[is_meant], measure))


def _first_updates(evidence: Evidence) -> pd.Series:
    """Returns the step of the first mask update that grew a weight, by run; variants of methods left out."""
    updates = evidence.runs.mask_updates
    if "grown" not in updates:
        return pd.Series(dtype=float)
    is_plain = updates["label"] == updates["method"].map(methods.label)
    return updates[(updates["grown"] > 0) & is_plain].groupby("run")["step"].min()


def _length_of_early(evidence: Evidence, frame: pd.DataFrame) -> pd.Series:
    total = frame["run"].map(evidence.runs.runs.set_index("run")["total_steps"]).astype(float)
    begin, end = find_early_window(total)
    return end - begin


def _mean_where(
    evidence: Evidence, frame: pd.DataFrame, column: str, has_begun: pd.Series, until: pd.Series
) -> pd.DataFrame:
    about = evidence.runs.runs.set_index("run")
    # An unfinished run that is not past early training would enter with its first steps alone.
    is_beyond = frame["run"].map(about["step"]).astype(float) >= until
    is_beyond |= frame["run"].map(about["state"]) == "finished"
    return _mean_of_runs(_select_value(frame[is_beyond & has_begun & (frame["step"] <= until)], column))


def _select_value(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    kept = ["run", "method", "label", "seed"]
    if column not in frame.columns:
        return pd.DataFrame(columns=[*kept, "value"])
    return frame[[*kept, column]].rename(columns={column: "value"}).astype({"value": np.float64})


def _mean_of_runs(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.groupby(["run", "method", "label", "seed"], as_index=False)["value"].mean()
