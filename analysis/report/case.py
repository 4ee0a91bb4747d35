"""One case of a report: the runs that are compared with each other, their measurements, and the section about them."""

import dataclasses
import re
from collections.abc import Sequence

from analysis.claims import paper, quantities
from analysis.figures import masks as mask_figures
from analysis.figures import palette, training
from analysis.figures import spectra as spectra_figures
from analysis.records import landscapes, spectra
from analysis.records.checkpoints import CheckpointReader
from analysis.records.runs import Runs
from analysis.report import formatting, page
from analysis.report.page import Section
from analysis.report.writer import ReportWriter
from analysis.similarity import tables

# Pairs of spectra that are drawn (count).
_MOST_PAIRS = 3


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
        return re.sub(r"[^a-z0-9]+", "-", f"{self.setting} {100 * self.sparsity:.4g}".lower())


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
    verdicts = paper.judge(evidence)
    return Case(setting, sparsity, runs, own_paths, own_spectra, predicted, evidence, verdicts, reader)


def claims_section(case: Case, writer: ReportWriter) -> Section:
    """Verdicts on the claims of the papers."""
    section = Section("The paper's claims")
    section.add(page.claims(case.verdicts))
    writer.write_data(f"{case.slug}/claims", paper.as_frame(case.verdicts))
    return section


def results_section(case: Case, writer: ReportWriter) -> Section:
    """Accuracy, sparsity and cost of the finished runs, by method."""
    section = Section("Results")
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
    )
    writer.add_figure(
        section,
        f"{case.slug}/mask_updates",
        f"Change of the gradient norm by each mask update, on the same images. {formatting.BAND}",
        lambda: training.mask_update_change(updates),
    )
    writer.add_figure(
        section,
        f"{case.slug}/loss",
        f"Training loss since the last log step, and test accuracy. {formatting.BAND}",
        lambda: training.loss(metrics),
    )
    return section


def curvature_section(case: Case, writer: ReportWriter) -> Section:
    """Spectra of the Hessian."""
    section = Section("Curvature")
    summaries, updates = case.spectra
    writer.write_data(f"{case.slug}/spectra", summaries)
    writer.write_data(f"{case.slug}/spectra_at_updates", updates)
    writer.add_figure(
        section,
        f"{case.slug}/spectra_before_and_after",
        "Hessian spectra before and after mask updates: histograms of eigenvalues, or estimated densities. The axis is "
        "linear around zero and logarithmic beyond. The legend gives the ends of the spectra.",
        lambda: spectra_figures.before_and_after(_spectrum_pairs(case)),
    )
    writer.add_figure(
        section,
        f"{case.slug}/curvature",
        "Extreme eigenvalues and number of negative eigenvalues at checkpoints, including those beside mask updates. "
        f"{formatting.BAND}",
        lambda: spectra_figures.extremes(summaries),
    )
    return section


def _spectrum_pairs(case: Case) -> dict[str, tuple[spectra_figures.Spectrum, spectra_figures.Spectrum]]:
    """Returns the first spectra before and after mask updates, of different methods and steps."""
    pairs: dict[str, tuple[spectra_figures.Spectrum, spectra_figures.Spectrum]] = {}
    for row in case.spectra.updates.sort_values("step").to_dict("records"):
        directory = case.runs.path(row["run"])
        before, after = (spectra.read_spectrum(directory, -number) for number in (row["step"] - 1, row["step"]))
        if before is not None and after is not None and len(pairs) < _MOST_PAIRS:
            pairs.setdefault(f"{row['label']}, step {row['step']}", (before, after))
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
