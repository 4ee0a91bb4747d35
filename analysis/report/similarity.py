"""Similarity of the networks of a case: in function, and in weights."""

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import landscape as landscape_figures
from analysis.figures import palette
from analysis.figures import similarity as similarity_figures
from analysis.report import formatting, page
from analysis.report.case import Case
from analysis.report.page import Section
from analysis.report.writer import ReportWriter
from analysis.similarity import function, tables
from sparse_lib.experiment.runtime.errors import RunError


def function_section(case: Case, writer: ReportWriter) -> Section:
    """Disagreement, divergences and shared errors of the networks, by method."""
    section = Section("Similarity of functions")
    table = tables.function_table(case.runs, case.predicted)
    writer.write_data(f"{case.slug}/similarity", table)
    writer.write_data(f"{case.slug}/similarity_pairs", case.evidence.pairs)
    writer.write_data(f"{case.slug}/similarity_to_pruned", case.evidence.to_parents)
    if table.empty:
        writer.missing.append("No run has a predictions.npz, which is written at the end of training.")
        return section
    heads = ["Method", "n", "Accuracy", "Ensemble", "Disagree", "With pruned", "KL", "JS", "Shared errors"]
    looks = palette.looks(table)
    rows = [
        [
            page.method_name(row["label"] + ("" if row["pairs_share_masks"] else " *"), looks[row["label"]].colour),
            row["networks"],
            formatting.format_mean(row["accuracy"], row["accuracy_std"], percent=True),
            formatting.format_percent(row["ensemble"]),
            formatting.format_mean(row["disagreement"], row["disagreement_std"], percent=True),
            formatting.format_mean(row["pruned_disagreement"], row["pruned_disagreement_std"], percent=True),
            formatting.format_number(row["kl"]),
            formatting.format_number(row["js"]),
            formatting.format_percent(row["error_jaccard"]),
        ]
        for row in table.to_dict("records")
    ]
    section.add(
        page.table(
            "Pairs of networks of a method: fraction of test images that they classify differently, mean divergences "
            "of their predictions (nats), and overlap of their errors. With pruned: disagreement with the pruned "
            "network whose masks they take. Mean and standard deviation.",
            heads,
            rows,
        ),
        page.paragraph(
            "* No two of these networks take the masks of one pruned network: the pairs have different masks.", "small"
        ),
    )
    writer.add_figure(
        section,
        f"{case.slug}/disagreement",
        "Fraction of test images that two networks classify differently. Each row is a run.",
        lambda: _disagreement_matrix(case),
    )
    return section


def _disagreement_matrix(case: Case) -> Figure:
    runs = case.runs.runs[case.runs.runs["run"].isin(case.predicted.logits)]
    order = {label: place for place, label in enumerate(palette.looks(runs))}
    runs = runs.assign(place=runs["label"].map(order)).sort_values(["place", "seed"])
    logits = case.predicted.logits
    values = np.array([[function.disagreement(logits[a], logits[b]) for b in runs["run"]] for a in runs["run"]])
    return similarity_figures.matrix(values.reshape(len(runs), -1), list(runs["label"]), title="Disagreement")


def weight_section(case: Case, writer: ReportWriter) -> Section:
    """Distances, interpolations and barriers to the pruned network."""
    section = Section("Distances between weights")
    distances = case.evidence.distances
    writer.write_data(f"{case.slug}/distances", distances)
    writer.write_data(f"{case.slug}/interpolation", case.paths.points)
    writer.write_data(f"{case.slug}/barriers", case.paths.barriers)
    if not distances.empty:
        heads = ["Method", "Start, L2", "End, L2", "Start, cosine", "End, cosine", "Start to end, L2"]
        caption = "Weight distances to the pruned network whose masks a run takes. Mean and standard deviation."
        section.add(formatting.means_table(distances, dict(zip(heads[1:], tables.DISTANCES, strict=True)), caption))
    _add_representations(case, section, writer)
    points, stress = tables.embed(case.runs, case.reader)
    writer.write_data(f"{case.slug}/embedding", points)
    writer.add_figure(
        section,
        f"{case.slug}/embedding",
        "Initial and final weights of the runs that keep the masks of one pruned network, embedded in the plane by "
        "metric multidimensional scaling of their L2 distances. Thin lines join start and end of a run.",
        lambda: similarity_figures.embedding(points, stress),
    )
    to_parent = case.paths.points[case.paths.points["to_parent"].astype(bool)]
    writer.add_figure(
        section,
        f"{case.slug}/interpolation",
        f"Loss and accuracy on the line from a run to the pruned network whose masks it takes. {formatting.BAND}",
        lambda: landscape_figures.interpolation(to_parent),
    )
    ends = case.paths.barriers[~case.paths.barriers["from_start"].astype(bool)]
    loss = ends[(ends["quantity"] == "loss") & (ends["split"] == "train")]
    if not loss.empty:
        heights = ("above_higher_end", "above_line", "largest_rise")
        columns = {name.replace("_", " ").capitalize(): name for name in heights}
        section.add(
            formatting.means_table(loss, columns, "Barriers of the training loss between final weights (nats).")
        )
    return section


def _add_representations(case: Case, section: Section, writer: ReportWriter) -> None:
    try:
        frame = tables.representations(case.runs, case.reader)
    except RunError as error:
        writer.missing.append(f"Hidden units and activations were not compared: {error}")
        return
    writer.write_data(f"{case.slug}/representations", frame)
    if frame.empty:
        return
    layers = {f"CKA {name.removeprefix('cka/')}": name for name in frame.columns if name.startswith("cka/")}
    caption = (
        "Distance of the final weights after permuting hidden units to match the pruned network (an upper bound), and "
        "linear CKA of the activations of each layer on test images: 1 if equal up to rotation and scale."
    )
    section.add(formatting.means_table(frame, {"End, matched L2": "matched_l2", **layers}, caption))
