"""Claims of the gradient-flow paper (arXiv 2010.03533), as statistical tests."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.claims import quantities as measured_by
from analysis.claims.effects import (
    NOT_ENOUGH,
    Contrast,
    Measure,
    Measured,
    PairContrast,
    RankCorrelation,
    Single,
    Status,
    decide,
    format_effect,
)

# Methods by preference: the paper's, then its nearest relatives, for studies without it.
_RIGL = ("rigl.plus", "rigl", "rigl.plus.erk", "rigl.erk")
_RIGL_SCRATCH = (("rigl.plus", "scratch.plus"), ("rigl", "scratch"), ("rigl.plus.erk", "static.plus.erk"))
_RIGL_SET = (("rigl.plus", "set.plus"), ("rigl", "set"), ("rigl.plus.erk", "set.plus.erk"))
_RIGL_INVERTED = (
    ("rigl.plus", "rigl_inverted.plus"),
    ("rigl", "rigl_inverted"),
    ("rigl.plus.erk", "rigl_inverted.plus.erk"),
)
_INIT, _TRAINING, _TICKETS = "At initialisation", "During training", "Lottery tickets"
_INFINITY = float("inf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, and the range of effects for which it holds.

    Attributes:
      name: identifier in files.
      part: part of the paper's argument.
      statement: the claim.
      paper: values reported in the paper.
      measure: measures the effect with its interval.
      low: lower end of the range, exclusive, in the unit of the effect; a fraction for points.
      high: upper end of the range, exclusive.
    """

    name: str
    part: str
    statement: str
    paper: str
    measure: Measure
    low: float = -_INFINITY
    high: float = _INFINITY


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Result of testing a claim on a case.

    Attributes:
      claim: the claim.
      status: whether the data support it.
      measured: the effect.
    """

    claim: Claim
    status: Status
    measured: Measured

    @property
    def effect(self) -> str:
        """Text of the effect with its interval."""
        interval, unit = self.measured.interval, self.measured.unit
        if math.isnan(interval.mean):
            return ""
        text = format_effect(interval.mean, unit)
        if math.isnan(interval.low):
            return text
        scale = 100 if unit == "points" else 1
        return f"{text} [{scale * interval.low:.3g}, {scale * interval.high:.3g}]"


CLAIMS = (
    Claim(
        name="scratch_starts_low",
        part=_INIT,
        statement="A sparse network with the dense initialisation starts with a smaller gradient norm than a small "
        "dense network of as many weights.",
        paper="LeNet5, MNIST, step 100: 0.05 against 1.1",
        measure=Contrast(measured_by.initial_gradient_norm, [("scratch", "small_dense")], "times"),
        high=1.0,
    ),
    Claim(
        name="init_raises_gradient",
        part=_INIT,
        statement="The sparsity-aware initialisation raises the gradient norm at the start.",
        paper="LeNet5, MNIST, step 100: 1.2 against 0.05",
        measure=Contrast(measured_by.initial_gradient_norm, [("scratch.plus", "scratch")], "times"),
        low=1.0,
    ),
    Claim(
        name="init_raises_accuracy",
        part=_INIT,
        statement="The sparsity-aware initialisation makes training from scratch more accurate.",
        paper="for networks without batch norm",
        measure=Contrast(measured_by.accuracy, [("scratch.plus", "scratch")], "points"),
        low=0.0,
    ),
    Claim(
        name="rigl_raises_gradient",
        part=_TRAINING,
        statement="RigL's early mask updates raise the gradient norm.",
        paper="LeNet5, MNIST: by 1.2 at step 100, by 0.01 at step 2,000",
        measure=Single(measured_by.update_change, _RIGL, "gradient norm"),
        low=0.0,
    ),
    Claim(
        name="rigl_raises_more_than_set",
        part=_TRAINING,
        statement="RigL's early mask updates raise the gradient norm more than SET's.",
        paper="LeNet5, MNIST, step 100: by 1.2 against 0.06",
        measure=Contrast(measured_by.update_change, _RIGL_SET, "gradient norm"),
        low=0.0,
    ),
    Claim(
        name="rigl_raises_more_than_inverted",
        part=_TRAINING,
        statement="RigL's early mask updates raise the gradient norm more than growing by the smallest gradients does.",
        paper="LeNet5, MNIST, step 100: by 1.2 against -0.06",
        measure=Contrast(measured_by.update_change, _RIGL_INVERTED, "gradient norm"),
        low=0.0,
    ),
    Claim(
        name="rigl_flow_above_scratch",
        part=_TRAINING,
        statement="Early in training RigL has a larger gradient norm than the same masks left alone.",
        paper="LeNet5, MNIST, step 200: 2.5 against 1.1",
        measure=Contrast(measured_by.early_gradient_norm, _RIGL_SCRATCH, "times"),
        low=1.0,
    ),
    Claim(
        name="rigl_adds_negative_curvature",
        part=_TRAINING,
        statement="RigL's mask updates add negative eigenvalues to the Hessian.",
        paper="shown as spectra before and after updates",
        measure=Single(measured_by.negative_change, _RIGL, "count"),
        low=0.0,
    ),
    Claim(
        name="rigl_deepens_negative_curvature",
        part=_TRAINING,
        statement="RigL's mask updates make the most negative eigenvalue of the Hessian more negative.",
        paper="shown as spectra before and after updates",
        measure=Single(measured_by.lowest_change, _RIGL, "eigenvalue"),
        high=0.0,
    ),
    Claim(
        name="rigl_accuracy_above_scratch",
        part=_TRAINING,
        statement="RigL ends more accurate than the same masks left alone.",
        paper="ResNet-50, ImageNet, 80%: about 74.7% against 71%",
        measure=Contrast(measured_by.accuracy, _RIGL_SCRATCH, "points"),
        low=0.0,
    ),
    Claim(
        name="rigl_accuracy_above_set",
        part=_TRAINING,
        statement="RigL ends more accurate than SET.",
        paper="ResNet-50, ImageNet, 80%: about 74.7% against 72.5%",
        measure=Contrast(measured_by.accuracy, _RIGL_SET, "points"),
        low=0.0,
    ),
    Claim(
        name="flow_goes_with_accuracy",
        part=_TRAINING,
        statement="Methods with more gradient flow early in training end more accurate.",
        paper="said of sparse training as a whole",
        measure=RankCorrelation(measured_by.early_gradient_norm, measured_by.accuracy),
        low=0.0,
    ),
    Claim(
        name="dense_above_rigl",
        part=_TRAINING,
        statement="In as many steps RigL does not reach the dense network.",
        paper="RigL needs about five times the steps",
        measure=Contrast(measured_by.accuracy, [("dense", method) for method in _RIGL], "points"),
        low=0.0,
    ),
    Claim(
        name="ticket_flow",
        part=_TICKETS,
        statement="A lottery ticket does not start with the gradient flow of a sparsity-aware initialisation.",
        paper="LeNet5, MNIST, step 100: 0.03 against 1.2",
        measure=Contrast(measured_by.initial_gradient_norm, [("lottery", "scratch.plus")], "times"),
        high=1.0,
    ),
    Claim(
        name="ticket_accuracy",
        part=_TICKETS,
        statement="A lottery ticket ends within a point of the accuracy of the pruned network that it comes from.",
        paper="LeNet5, MNIST: 98.52% and 98.53%",
        measure=Single(measured_by.accuracy_above_parent, ["lottery"], "points"),
        low=-0.01,
        high=0.01,
    ),
    Claim(
        name="ticket_above_scratch",
        part=_TICKETS,
        statement="A lottery ticket ends more accurate than the same mask from fresh weights.",
        paper="LeNet5, MNIST: 98.52% against 97.04%",
        measure=Contrast(measured_by.accuracy, [("lottery", "scratch")], "points"),
        low=0.0,
    ),
    Claim(
        name="ticket_starts_closer",
        part=_TICKETS,
        statement="A lottery ticket starts closer to the pruned network than fresh weights do.",
        paper="LeNet5, MNIST: 12.2 against 16.8 in the plane of the embedding",
        measure=Contrast(measured_by.start_distance, [("lottery", "scratch")], "times"),
        high=1.0,
    ),
    Claim(
        name="ticket_ends_closer",
        part=_TICKETS,
        statement="A lottery ticket ends closer to the pruned network than training from fresh weights does.",
        paper="LeNet5, MNIST: 6.5 against 26.2 in the plane of the embedding",
        measure=Contrast(measured_by.end_distance, [("lottery", "scratch")], "times"),
        high=1.0,
    ),
    Claim(
        name="ticket_agrees",
        part=_TICKETS,
        statement="A lottery ticket disagrees with the pruned network on fewer images than scratch does.",
        paper="LeNet5, MNIST: 0.89% against 2.78%",
        measure=Contrast(measured_by.disagreement_with_parent, [("lottery", "scratch")], "points"),
        high=0.0,
    ),
    Claim(
        name="tickets_alike",
        part=_TICKETS,
        statement="Tickets of one pruned network disagree less with each other than independently pruned networks do.",
        paper="LeNet5, MNIST: 0.43% against 2.14%",
        measure=PairContrast("disagreement", "lottery", "prune", "points"),
        high=0.0,
    ),
    Claim(
        name="tickets_gain_little",
        part=_TICKETS,
        statement="Two tickets of one pruned network gain less as an ensemble than two independently pruned networks.",
        paper="LeNet5, MNIST, ensembles of five: 0.06 points against 0.77",
        measure=PairContrast("pair_ensemble_gain", "lottery", "prune", "points"),
        high=0.0,
    ),
    Claim(
        name="ticket_barrier",
        part=_TICKETS,
        statement="The loss barrier to the pruned network is lower from a trained ticket than from scratch.",
        paper="LeNet5, MNIST: 0.006 against 1.79 nats",
        measure=Contrast(measured_by.loss_barrier, [("lottery", "scratch")], "nats"),
        high=0.0,
    ),
    Claim(
        name="ticket_connected",
        part=_TICKETS,
        statement="Ticket and pruned network lie in one basin: the training error rises by less than two points on the "
        "line between them.",
        paper="next to no barrier; two points is the bound of Frankle et al. (2020)",
        measure=Single(measured_by.error_barrier, ["lottery"], "points"),
        high=0.02,
    ),
)


def judge(evidence: Any, claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """Tests all claims on a case.

    Args:
      evidence: frames of the case, as the claims' measures take them.
      claims: claims to test.

    Returns:
      One verdict per claim.
    """
    verdicts = []
    for claim in claims:
        found = claim.measure(evidence)
        status = NOT_ENOUGH if found.missing else decide(found, claim.low, claim.high)
        verdicts.append(Verdict(claim, status, found))
    return verdicts


def as_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Converts verdicts to one row each; points are fractions."""
    return pd.DataFrame(
        [
            {
                "claim": v.claim.name,
                "part": v.claim.part,
                "statement": v.claim.statement,
                "status": v.status,
                "effect": v.measured.interval.mean,
                "low": v.measured.interval.low,
                "high": v.measured.interval.high,
                "unit": v.measured.unit,
                "n": v.measured.interval.n,
                "interval": v.measured.interval.kind,
                "compared": v.measured.sides,
                "missing": v.measured.missing,
                "paper": v.claim.paper,
            }
            for v in verdicts
        ]
    )
