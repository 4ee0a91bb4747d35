"""One case of a report: the runs that are compared with each other, their measurements, and the section about them."""

import dataclasses
import functools
import math
from collections.abc import Sequence

from analysis.claims import paper, quantities
from analysis.claims.effects import NOT_ENOUGH
from analysis.figures import masks as mask_figures
from analysis.figures import palette, training
from analysis.figures import spectra as spectra_figures
from analysis.records import landscapes, spectra
from analysis.records.checkpoints import CheckpointReader
from analysis.records.runs import Runs
from analysis.report import formatting, page
from analysis.report.charts import Chart
from analysis.report.page import Section
from analysis.report.writer import ReportWriter
from analysis.similarity import tables

# Fewer seeds have no interval that says anything: that of two is 12.7 standard errors wide on either side.
_FEWEST_SEEDS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """The runs of one setting and sparsity, with their measurements.

    Attributes:
      setting: network and data.
      sparsity: target (fraction).
      runs: frames of these runs.
      paths: their interpolations.
      spectra: their Hessian spectra.
      predicted: their logits on the test split.
      evidence: quantities that the claims are measured by.
      verdicts: one per claim.
      reader: of their checkpoints.
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
        """Heading of the case."""
        return f"{self.setting}, {100 * self.sparsity:.4g}% sparse" if self.sparsity else self.setting

    @property
    def slug(self) -> str:
        """Folder name, and anchor on the page."""
        return page.make_slug(f"{self.setting} {100 * self.sparsity:.4g}")

    @property
    def names(self) -> list[str]:
        """Runs of the case."""
        return list(self.runs.runs["run"])


def measure_case(
    setting: str, sparsity: float, runs: Runs, paths: landscapes.Paths, measured_spectra: spectra.Spectra
) -> Case:
    """Measures the runs of a case and judges the claims.

    Args:
      setting: network and data.
      sparsity: target (fraction).
      runs: frames of the case.
      paths: interpolations of all runs.
      measured_spectra: of all runs.

    Returns:
      The case.
    """
    names = set(runs.runs["run"])
    own_paths = landscapes.Paths(*(frame[frame["run"].isin(names)] for frame in paths))
    own_spectra = spectra.Spectra(*(frame[frame["run"].isin(names)] for frame in measured_spectra))
    predicted = tables.load_predictions(runs)
    reader = CheckpointReader()
    evidence = quantities.gather(runs, predicted, own_paths, own_spectra, reader)
    verdicts = [_limit_interval(verdict) for verdict in paper.judge(evidence)]
    return Case(setting, sparsity, runs, own_paths, own_spectra, predicted, evidence, verdicts, reader)


def _limit_interval(verdict: paper.Verdict) -> paper.Verdict:
    """Ends an interval of percentage points at 100, and takes that of two seeds away, and the verdict with it."""
    measured, status = verdict.measured, verdict.status
    interval = measured.interval
    if interval.n < _FEWEST_SEEDS and not math.isnan(interval.low):
        interval = interval._replace(low=math.nan, high=math.nan)
        measured, status = measured._replace(missing="a third seed"), NOT_ENOUGH
    elif measured.unit == "points":
        interval = interval._replace(low=max(interval.low, -1.0), high=min(interval.high, 1.0))
    return dataclasses.replace(verdict, status=status, measured=measured._replace(interval=interval))


def claims_section(case: Case, writer: ReportWriter) -> Section:
    """Verdicts on the claims of the papers."""
    section = Section(case.title)
    section.add(page.claims(case.verdicts))
    writer.write_data(f"{case.slug}/claims", paper.as_frame(case.verdicts))
    return section


def results_section(case: Case, writer: ReportWriter) -> Section:
    """Accuracy, sparsity and cost of the finished runs, by method."""
    section = Section(case.title)
    writer.write_data(f"{case.slug}/results", case.runs.results.drop(columns="versions", errors="ignore"))
    # Those of runs that diverged have no accuracy.
    results = case.runs.results.dropna(subset="test_accuracy")
    if results.empty:
        section.add(page.paragraph("No run of this case is finished; the sections below show their progress.", "note"))
        return section
    dense = results[results["method"] == "dense"]
    costs = [c for c in ("inference_flops", "training_flops") if c in results]
    of_dense = " / dense" if len(dense) else ""
    heads = [
        "Method",
        "Runs",
        "Test accuracy",
        "Sparsity",
        "Active weights",
        *(f"{_cost_name(c)}{of_dense}" for c in costs),
    ]
    rows = []
    for label, look in palette.looks(results).items():
        own = results[results["label"] == label]
        units = [dense[cost].mean() if len(dense) else None for cost in costs]
        accuracy = own["test_accuracy"]
        rows.append(
            [
                page.method_name(label, look.colour),
                len(own),
                formatting.format_mean(accuracy.mean(), accuracy.std(), percent=True),
                f"{100 * own['sparsity'].mean():.4g}%" if "sparsity" in own else "",
                f"{own['active_parameters'].mean():,.0f}" if "active_parameters" in own else "",
                *(_format_cost(own[cost].mean(), unit) for cost, unit in zip(costs, units, strict=True)),
            ]
        )
    caption = "Finished runs: mean and standard deviation over the runs of a method. FLOPs are counted, not measured."
    section.add(page.table(caption, heads, rows))
    return section


def gradient_section(case: Case, writer: ReportWriter) -> Section:
    """Gradient norms, mask updates and loss over training."""
    section = Section("Gradient flow")
    metrics, updates = case.runs.metrics, case.runs.mask_updates
    writer.write_data(f"{case.slug}/metrics", metrics)
    writer.write_data(f"{case.slug}/mask_updates", updates)
    writer.add_figure(
        section,
        f"{case.slug}/gradient_norm",
        f"Norm of the gradient of the active weights on held-out images. {formatting.BAND} Dashed: dense "
        "initialisation under a mask; dotted: masks that do not come from pruning.",
        lambda: training.gradient_norm(metrics),
        [Chart("step", "gradient_norm", case.names, "y")],
    )
    writer.add_figure(
        section,
        f"{case.slug}/mask_updates",
        f"Change of the gradient norm by each mask update, on the same images. {formatting.BAND}",
        lambda: training.mask_update_change(updates),
        [Chart("step", "gradient_norm_change at mask updates", case.names)],
    )
    writer.add_figure(
        section,
        f"{case.slug}/loss",
        f"Training loss since the last log step, and test accuracy. {formatting.BAND}",
        lambda: training.loss(metrics),
        [Chart("step", "train_loss", case.names, "y"), Chart("step", "test_accuracy", case.names)],
    )
    return section


def curvature_section(case: Case, writer: ReportWriter) -> Section:
    """Spectra of the Hessian."""
    section = Section("Curvature")
    summaries, updates = case.spectra
    writer.write_data(f"{case.slug}/spectra", summaries)
    writer.write_data(f"{case.slug}/spectra_at_updates", updates)
    pairs = _spectrum_pairs(case)
    for label, own in pairs.items() or [("", [])]:
        writer.add_figure(
            section,
            f"{case.slug}/spectra_before_and_after_{page.make_slug(label)}",
            f"Hessian spectra before and after the mask updates of {label}: histograms of eigenvalues, or estimated "
            "densities. The axis is linear around zero and logarithmic beyond. The legends give the spectra's ends.",
            functools.partial(spectra_figures.before_and_after, own, title=label),
        )
    writer.add_figure(
        section,
        f"{case.slug}/curvature",
        "Extreme eigenvalues and number of negative eigenvalues at checkpoints, including those beside mask updates. "
        f"{formatting.BAND}",
        lambda: spectra_figures.extremes(summaries),
    )
    return section


def _spectrum_pairs(case: Case) -> dict[str, list[spectra_figures.Pair]]:
    """Returns the spectra before and after all mask updates that have them, by label."""
    pairs: dict[str, list[spectra_figures.Pair]] = {}
    rows = case.spectra.updates.sort_values(["seed", "run", "step"])
    for label in palette.looks(rows):
        for row in rows[rows["label"] == label].to_dict("records"):
            directory = case.runs.path(row["run"])
            # The checkpoints around the update at step t are numbered -(t - 1) and -t.
            before, after = (spectra.read_spectrum(directory, -number) for number in (row["step"] - 1, row["step"]))
            if before is not None and after is not None:
                pair = spectra_figures.Pair(row["run"], row["seed"], row["step"], before, after)
                pairs.setdefault(label, []).append(pair)
    return pairs


def mask_section(case: Case, writer: ReportWriter) -> Section:
    """Sparsity per layer, change and overlap of masks."""
    section = Section("Masks")
    writer.add_figure(
        section,
        f"{case.slug}/layer_sparsity",
        "Sparsity of each layer at the last log step. Points are means over runs, lines their range.",
        lambda: mask_figures.layer_sparsity(case.runs.layers),
    )
    writer.add_figure(
        section,
        f"{case.slug}/mask_evolution",
        f"Change of masks over training. {formatting.BAND}",
        lambda: mask_figures.evolution(case.runs.metrics),
        [Chart("step", measure, case.names) for measure in ("sparsity", "mask_churn", "exploration_rate")],
    )
    survivals = tables.survivals(case.runs, case.reader)
    writer.write_data(f"{case.slug}/mask_survival", survivals)
    writer.add_figure(
        section,
        f"{case.slug}/mask_survival",
        "Fraction of grown weights that are still active after some steps (Kaplan-Meier estimate from checkpoints; "
        "weights that are grown and dropped between two of them are missed). One curve per run.",
        lambda: mask_figures.survival(survivals),
    )
    table = tables.mask_table(case.runs, case.reader)
    writer.write_data(f"{case.slug}/mask_overlap", table)
    if not table.empty:
        looks = palette.looks(table)
        rows = [
            [
                page.method_name(row["label"], looks[row["label"]].colour),
                row["compared"],
                row["n"],
                *(formatting.format_percent(row[k]) for k in ("iou", "chance", "above_chance")),
            ]
            for row in table.to_dict("records")
        ]
        caption = (
            "Overlap of the final masks with others (active in both / active in either), its value for random masks of "
            "the same layer-wise densities, and the overlap above chance (0% chance, 100% equal)."
        )
        section.add(page.table(caption, ["Method", "With", "n", "Overlap", "By chance", "Above chance"], rows, names=2))
    return section


def _format_cost(flops: float, of_dense: float | None) -> str:
    return formatting.format_amount(flops) if of_dense is None else f"{flops / of_dense:.3g}"


def _cost_name(cost: str) -> str:
    return {"inference_flops": "Inference FLOPs", "training_flops": "Training FLOPs"}[cost]
