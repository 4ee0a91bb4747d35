"""What a report says of one case: results, claims, gradient flow, curvature, similarity, masks."""

from collections.abc import Sequence

from analysis.claims import paper
from analysis.figures import masks as mask_figures
from analysis.figures import spectra as spectra_figures
from analysis.figures import style, training
from analysis.records import spectra
from analysis.report import formatting, page
from analysis.report.case import Case
from analysis.report.page import Section
from analysis.report.similarity import functions, weights
from analysis.report.writer import Sheets
from analysis.similarity import tables

# Pairs of spectra that are drawn.
_MOST_PAIRS = 3


def case_section(case: Case, sheets: Sheets) -> Section:
    """Everything about a case.

    Args:
      case: to tell of.
      sheets: take figures and data.

    Returns:
      A section with one child a subject.
    """
    whole = Section(case.title, anchor=case.slug)
    whole.add(_verdict_tiles(case.verdicts))
    for subject in (_claims, _results, _gradients, _curvature, functions, weights, _masks):
        whole.children.append(subject(case, sheets))
    if lacks := [*sheets.missing, *case.reader.notes]:
        lacking = Section("Not shown")
        lacking.add(page.listed(dict.fromkeys(lacks)))
        sheets.missing.clear()
        whole.children.append(lacking)
    return whole


def _verdict_tiles(verdicts: Sequence[paper.Verdict]) -> page.Markup:
    said = dict(zip(page.STATUSES, ("supported", "not supported", "undecided", "lack data"), strict=True))
    counts = {status: sum(v.status == status for v in verdicts) for status in page.STATUSES}
    return page.tiles([(n, f"claims {said[status]}", status.replace(" ", "-")) for status, n in counts.items()])


def _claims(case: Case, sheets: Sheets) -> Section:
    section = Section("The paper's claims")
    section.add(page.claims(case.verdicts))
    sheets.data(f"{case.slug}/claims", paper.as_frame(case.verdicts))
    return section


def _results(case: Case, sheets: Sheets) -> Section:
    section = Section("Results")
    results = case.runs.results
    sheets.data(f"{case.slug}/results", results.drop(columns="versions", errors="ignore"))
    if results.empty:
        section.add(page.paragraph("No run of this case is finished; what follows shows how far they are.", "note"))
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
        *(f"{_said(c)}{of_dense}" for c in costs),
    ]
    rows = []
    for label, look in style.looks(results).items():
        own = results[results["label"] == label]
        units = [dense[cost].mean() if len(dense) else None for cost in costs]
        accuracy = own["test_accuracy"]
        rows.append(
            [
                page.method_name(label, look.colour),
                len(own),
                formatting.plus_minus(accuracy.mean(), accuracy.std(), percent=True),
                f"{100 * own['sparsity'].mean():.4g}%" if "sparsity" in own else "",
                f"{own['active_parameters'].mean():,.0f}" if "active_parameters" in own else "",
                *(_cost(own[cost].mean(), unit) for cost, unit in zip(costs, units, strict=True)),
            ]
        )
    caption = "Finished runs: mean, and standard deviation over the runs of a method. FLOPs are counted, not measured."
    section.add(page.table(caption, heads, rows))
    return section


def _gradients(case: Case, sheets: Sheets) -> Section:
    section = Section("Gradient flow")
    metrics, updates = case.runs.metrics, case.runs.mask_updates
    sheets.data(f"{case.slug}/metrics", metrics)
    sheets.data(f"{case.slug}/mask_updates", updates)
    sheets.figure(
        section,
        f"{case.slug}/gradient_norm",
        f"Norm of the gradient of the active weights on held-out images. {formatting.BAND} Dashed: dense "
        "initialisation under a mask; dotted: masks that do not come from pruning.",
        lambda: training.gradient_norm(metrics),
    )
    sheets.figure(
        section,
        f"{case.slug}/mask_updates",
        f"Change of the gradient norm by each mask update, on the same images. {formatting.BAND}",
        lambda: training.mask_update_change(updates),
    )
    sheets.figure(
        section,
        f"{case.slug}/loss",
        f"Training loss since the last log step, and test accuracy. {formatting.BAND}",
        lambda: training.loss(metrics),
    )
    return section


def _curvature(case: Case, sheets: Sheets) -> Section:
    section = Section("Curvature")
    summaries, updates = case.spectra
    sheets.data(f"{case.slug}/spectra", summaries)
    sheets.data(f"{case.slug}/spectra_at_updates", updates)
    sheets.figure(
        section,
        f"{case.slug}/spectra_before_and_after",
        "Spectra of the Hessian before and after mask updates: numbers of eigenvalues in bins, or their density where "
        "it was estimated. The axis is linear around zero and logarithmic beyond. The legend gives the ends of the "
        "spectra.",
        lambda: spectra_figures.before_and_after(_pairs(case)),
    )
    sheets.figure(
        section,
        f"{case.slug}/curvature",
        "Ends of the spectrum and number of negative eigenvalues at checkpoints, also those beside mask updates. "
        f"{formatting.BAND}",
        lambda: spectra_figures.extremes(summaries),
    )
    return section


def _pairs(case: Case) -> dict[str, tuple[spectra_figures.Spectrum, spectra_figures.Spectrum]]:
    """Spectra before and after mask updates that have both: the first ones of different methods and steps."""
    pairs: dict[str, tuple[spectra_figures.Spectrum, spectra_figures.Spectrum]] = {}
    for row in case.spectra.updates.sort_values("step").to_dict("records"):
        directory = case.runs.path(row["run"])
        before, after = (spectra.spectrum(directory, -number) for number in (row["step"] - 1, row["step"]))
        if before is not None and after is not None and len(pairs) < _MOST_PAIRS:
            pairs.setdefault(f"{row['label']}, step {row['step']}", (before, after))
    return pairs


def _masks(case: Case, sheets: Sheets) -> Section:
    section = Section("Masks")
    sheets.figure(
        section,
        f"{case.slug}/layer_sparsity",
        "Sparsity of each layer at the last log step; points are means over runs, lines their range.",
        lambda: mask_figures.layer_sparsity(case.runs.layers),
    )
    sheets.figure(
        section,
        f"{case.slug}/mask_evolution",
        f"How masks change. {formatting.BAND}",
        lambda: mask_figures.evolution(case.runs.metrics),
    )
    survivals = tables.survivals(case.runs, case.reader)
    sheets.data(f"{case.slug}/mask_survival", survivals)
    sheets.figure(
        section,
        f"{case.slug}/mask_survival",
        "Share of grown weights that are still active after some steps (Kaplan-Meier, from the checkpoints; weights "
        "that grow and go between two of them are not seen). One curve a run.",
        lambda: mask_figures.survival(survivals),
    )
    table = tables.mask_table(case.runs, case.reader)
    sheets.data(f"{case.slug}/mask_overlap", table)
    if not table.empty:
        looks = style.looks(table)
        rows = [
            [
                page.method_name(row["label"], looks[row["label"]].colour),
                row["compared"],
                row["n"],
                *(formatting.percent(row[k]) for k in ("iou", "chance", "above_chance")),
            ]
            for row in table.to_dict("records")
        ]
        caption = (
            "Overlap of the last masks with others: active in both / active in either, what random masks of the same "
            "layer-wise densities would have, and how far above that it is (0% chance, 100% equal)."
        )
        section.add(page.table(caption, ["Method", "With", "n", "Overlap", "By chance", "Above chance"], rows, names=2))
    return section


def _cost(flops: float, of_dense: float | None) -> str:
    return formatting.amount(flops) if of_dense is None else f"{flops / of_dense:.3g}"


def _said(cost: str) -> str:
    return {"inference_flops": "Inference FLOPs", "training_flops": "Training FLOPs"}[cost]
