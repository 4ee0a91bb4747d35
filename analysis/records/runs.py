"""Tidy data frames of run directories, including unfinished and empty ones."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.records import methods
from analysis.records.variants import makes_variant
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files, gin_text
from sparse_lib.experiment.storage.checkpoints import split_checkpoint
from sparse_lib.experiment.storage.run_directory import find_runs
from sparse_lib.experiment.training.outcome import DIVERGED

# First columns of every frame.
IDENTITY = ("run", "setting", "method", "label", "seed", "target_sparsity")
_OF_RESULT = ("outcome", "left_plateau_at")
_RUN_COLUMNS = (*IDENTITY, "network", "data", "parent", "total_steps", "step", "state", *_OF_RESULT, "path")
_FINISHED, _UNFINISHED, _EMPTY, _DIVERGED = "finished", "unfinished", "empty", "diverged"
STATES = (_FINISHED, _DIVERGED, _UNFINISHED, _EMPTY)


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """Records of a set of runs as tidy frames, each of which begins with the columns of `IDENTITY`.

    Attributes:
      runs: one row per run: network, data, `parent` (the run whose masks it takes), `total_steps`, `step` (the last one
        logged), `state` (one of `STATES`), `outcome` and `left_plateau_at` (step) as in result.json, None and NaN for
        runs without, and `path`.
      configs: one row per run, one column per binding of its operative configuration, indexed by run.
      metrics: one row per log step, one column per scalar of metrics.jsonl.
      layers: one row per log step, layer and metric, from the keys `metric/layer` of metrics.jsonl.
      mask_updates: one row per mask update, with `gradient_norm_change`.
      results: one row per finished or diverged run, from result.json; accuracies of the latter are NaN.
      notes: one sentence per file that could not be read.
    """

    runs: pd.DataFrame
    configs: pd.DataFrame
    metrics: pd.DataFrame
    layers: pd.DataFrame
    mask_updates: pd.DataFrame
    results: pd.DataFrame
    notes: tuple[str, ...] = ()

    def only(self, names: Collection[str]) -> "Runs":
        """Selects runs.

        Args:
          names: values of column `run`.

        Returns:
          New frames with the rows of these runs.
        """
        kept = set(names)
        frames = {
            field: frame[frame["run"].isin(kept)].reset_index(drop=True)
            for field in ("runs", "metrics", "layers", "mask_updates", "results")
            for frame in [getattr(self, field)]
        }
        return Runs(**frames, configs=self.configs[self.configs.index.isin(kept)], notes=self.notes)

    def cases(self) -> Iterator[tuple[str, float, "Runs"]]:
        """Splits the runs into cases: runs of one setting and sparsity, with the dense runs of the setting.

        Yields:
          Setting, target sparsity (fraction) and runs.
        """
        for setting, group in self.runs.groupby("setting", sort=True):
            is_dense = group["method"].map(methods.base_of).isin(methods.DENSE)
            for sparsity in sorted(group.loc[~is_dense, "target_sparsity"].dropna().unique()) or [0.0]:
                is_common = is_dense & (group["target_sparsity"] == 0)
                names = group.loc[is_common | (group["target_sparsity"] == sparsity), "run"]
                yield str(setting), float(sparsity), self.only(names)

    def path(self, run: str) -> pathlib.Path:
        """Returns the directory of a run."""
        return pathlib.Path(self.runs.loc[self.runs["run"] == run, "path"].item())

    def parent(self, run: str) -> str | None:
        """Returns the run whose masks a run takes, or None."""
        found = self.runs.loc[self.runs["run"] == run, "parent"].item()
        return found if isinstance(found, str) else None

    def locate(self, path: str) -> str | None:
        """Finds a run by its directory, even if the runs have been moved since.

        Args:
          path: run directory as recorded in a configuration.

        Returns:
          Value of column `run`, or None.
        """
        return _find_run(path, list(self.runs["run"]), list(self.runs["path"]))


def load_runs(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Runs:
    """Reads all runs below some directories.

    Args:
      paths: one directory or several; every directory below with an operative_config.gin is a run.

    Returns:
      The frames, without lines that a killed process left incomplete.

    Raises:
      InputError: if a directory does not exist.
    """
    tops = [pathlib.Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    for top in tops:
        if not top.is_dir():
            raise InputError(f"There is no directory {top}; name one that holds runs.")
    directories = sorted({directory.resolve() for top in tops for directory in find_runs(top)})
    notes: list[str] = []
    raw = [_read_run(directory, notes) for directory in directories]
    names = _short_names(directories, [top.resolve() for top in tops])
    runs, configs = _identify_runs(names, raw)
    identity = runs[list(IDENTITY)]
    records = {field: [(n, r) for n, item in zip(names, raw, strict=True) for r in item[field]] for field in _TABLES}
    metrics = _join_identity(identity, records["metrics"], ["step"])
    updates = _join_identity(identity, records["mask_updates"], ["step", "gradient_norm_before", "gradient_norm_after"])
    updates["gradient_norm_change"] = updates["gradient_norm_after"] - updates["gradient_norm_before"]
    by_layer = [c for c in metrics.columns if "/" in c]
    return Runs(
        runs=runs,
        configs=configs,
        metrics=metrics.drop(columns=by_layer),
        layers=_melt_layers(metrics, by_layer),
        mask_updates=updates,
        results=_join_identity(identity, records["results"], ["test_accuracy"]),
        notes=tuple(notes),
    )


_TABLES = ("metrics", "mask_updates", "results")


def _read_run(directory: pathlib.Path, notes: list[str]) -> dict[str, Any]:
    def lines(name: str) -> list[dict[str, Any]]:
        records, problem = files.JsonLines(directory / name).scan()
        if problem:
            notes.append(problem)
        return records

    def value(name: str, read: Callable[[pathlib.Path], dict[str, Any]]) -> dict[str, Any]:
        path = directory / name
        try:
            with files.report_damage(path, "the report leaves it out"):
                return read(path) if path.exists() else {}
        except RunError as error:
            notes.append(str(error))
            return {}

    value(files.RUN, lambda path: methods.read_description(path)._asdict())
    result = value(files.RESULT, _read_result)
    return {
        "path": str(directory),
        "values": value(files.OPERATIVE_CONFIG, lambda path: gin_text.parse(path.read_text(encoding="utf8"))),
        "metrics": lines(files.METRICS),
        "mask_updates": lines(files.MASK_UPDATES),
        "results": [result] if result else [],
    }


def _read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads the numbers and texts of result.json."""
    values = files.read_json(path, "the report leaves it out")
    files.require_numbers(values, ["test_accuracy", *({"left_plateau_at"} & values.keys())])
    if not isinstance(values.get("outcome"), str | None):
        raise InputError("its 'outcome' is no text")
    return {name: value for name, value in values.items() if isinstance(value, int | float | str | dict | None)}


def _short_names(directories: Sequence[pathlib.Path], tops: Sequence[pathlib.Path]) -> list[str]:
    """Returns the path of each run below the common parent directory."""
    common = pathlib.Path(os.path.commonpath(tops)) if tops else pathlib.Path()
    names = [d.relative_to(common).as_posix() for d in directories]
    return [d.name if name == "." else name for d, name in zip(directories, names, strict=True)]


def _identify_runs(names: Sequence[str], raw: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    identities = [methods.identify(item["values"], pathlib.Path(item["path"])) for item in raw]
    parents = _find_parents(names, [item["path"] for item in raw], [i.mask_source for i in identities])
    sparsities = _target_sparsities(names, identities, parents, raw)
    rows = []
    for name, item, identity, parent in zip(names, raw, identities, parents, strict=True):
        steps = [record["step"] for record in item["metrics"]]
        result = item["results"][0] if item["results"] else {}
        state = _name_state(result, is_logged=bool(steps))
        kept = {**identity._asdict(), "run": name, "parent": parent, "target_sparsity": sparsities[name]}
        rows.append({**kept, "step": max(steps, default=0), "state": state, "path": item["path"]})
        rows[-1] |= {column: result.get(column) for column in _OF_RESULT}
    runs = pd.DataFrame(rows, columns=[c for c in _RUN_COLUMNS if c != "label"])
    for column in ("parent", "outcome"):
        runs[column] = runs[column].astype(object).where(runs[column].notna(), None)
    runs["left_plateau_at"] = runs["left_plateau_at"].astype(float)
    index = pd.Index(names, name="run", dtype=object)
    configs = pd.DataFrame([item["values"] for item in raw], index=index, dtype=object)
    labels = [methods.label(identity.method, identity.label) for identity in identities]
    runs.insert(3, "label", [label + v for label, v in zip(labels, _variant_suffixes(runs, configs), strict=True)])
    return runs, configs


def _name_state(result: Mapping[str, Any], *, is_logged: bool) -> str:
    if result:
        return _DIVERGED if result.get("outcome") == DIVERGED else _FINISHED
    return _UNFINISHED if is_logged else _EMPTY


def _find_parents(names: Sequence[str], paths: Sequence[str], sources: Sequence[str]) -> list[str | None]:
    """Returns the run of each mask source."""
    directories = [split_checkpoint(source)[0] for source in sources]
    return [_find_run(directory, names, paths) for directory in directories]


def _find_run(wanted: str, names: Sequence[str], paths: Sequence[str]) -> str | None:
    """Finds the run at a path, or the one whose path ends alike if the runs have been moved."""
    if not wanted:
        return None
    exact = str(pathlib.Path(wanted).resolve())
    if exact in paths:
        return names[paths.index(exact)]
    common = [_common_suffix_length(pathlib.PurePath(wanted).parts, pathlib.PurePath(path).parts) for path in paths]
    best = max(common, default=0)
    return names[common.index(best)] if best and common.count(best) == 1 else None


def _common_suffix_length(one: Sequence[str], other: Sequence[str]) -> int:
    length = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        length += 1
    return length


def _target_sparsities(
    names: Sequence[str],
    identities: Sequence[methods.Description],
    parents: Sequence[str | None],
    raw: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """Returns the target sparsity of each run; with the masks of another run, that run's."""
    by_name = dict(zip(names, zip(identities, parents, raw, strict=True), strict=True))

    def find(name: str, seen: tuple[str, ...] = ()) -> float:
        identity, parent, item = by_name[name]
        if not np.isnan(identity.target_sparsity):
            return identity.target_sparsity
        # These masks have another sparsity than those of the parent.
        values = item["values"]
        has_own = values.get("iterative_pruning.fraction") or values.get("network.invert_mask")
        if not has_own and parent and parent not in seen:
            return find(parent, (*seen, name))
        measured = [record["sparsity"] for record in item["metrics"] if "sparsity" in record]
        return round(measured[-1], 3) if measured else float("nan")

    return {name: find(name) for name in names}


def _variant_suffixes(runs: pd.DataFrame, configs: pd.DataFrame) -> list[str]:
    """Returns unusual bindings as suffixes of labels; without them, such runs would pass for seeds of one method."""
    columns = [c for c in configs.columns if makes_variant(c)]
    # NaN: the run is of a version without this setting.
    is_bound = configs[columns].map(lambda value: not isinstance(value, float) or not np.isnan(value))
    texts = configs[columns].map(repr).where(is_bound)
    variants = dict.fromkeys(runs["run"], "")
    for _, setting in runs.groupby("setting"):
        for _, group in setting.groupby(["method", "target_sparsity"], dropna=False):
            own, all_of_setting = texts.loc[list(group["run"])], texts.loc[list(setting["run"])]
            for column in own.columns[own.nunique() > 1]:
                usual = _usual_value(own[column], all_of_setting[column])
                for name, text in own[column].dropna().items():
                    if text != usual:
                        variants[name] += f", {column.split('.')[-1]}={text}"
    return [variants[name] for name in runs["run"]]


def _usual_value(own: pd.Series, all_of_setting: pd.Series) -> str:
    """Returns the most frequent value of the setting or, if the method never has it, of the method."""
    (common, _), *_ = collections.Counter(all_of_setting.dropna()).most_common(1)
    (common_here, _), *_ = collections.Counter(own.dropna()).most_common(1)
    return str(common if common in set(own) else common_here)


def _join_identity(
    identity: pd.DataFrame, records: Sequence[tuple[str, dict[str, Any]]], columns: list[str]
) -> pd.DataFrame:
    """Puts the identity of the runs before the values of their records; null becomes NaN."""
    frame = pd.DataFrame([record for _, record in records])
    frame = frame.reindex(columns=list(dict.fromkeys([*columns, *frame.columns])))
    for column in [c for c in frame if pd.api.types.is_object_dtype(frame[c])]:
        is_plain = frame[column].map(lambda v: v is None or isinstance(v, int | float)).all()
        if is_plain:
            frame[column] = pd.to_numeric(frame[column])
    own = frame.drop(columns=[c for c in ("run", "seed") if c in frame.columns])
    own.insert(0, "run", pd.Series([name for name, _ in records], dtype=identity["run"].dtype))
    return identity.merge(own, on="run", how="right", validate="one_to_many")


def _melt_layers(metrics: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    melted = metrics.melt([*IDENTITY, "step"], list(columns), var_name="key").dropna(subset="value")
    names = {key: key.partition("/") for key in columns}
    for place, part in ((1, 0), (2, 2)):
        values = {key: name[part] for key, name in names.items()}
        melted.insert(len(IDENTITY) + place, ("metric", "", "layer")[part], melted["key"].map(values).astype(str))
    return melted.drop(columns="key").reset_index(drop=True)
