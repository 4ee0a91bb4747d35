"""Checkpoints of a run: written atomically, checked against the model before loading, limited in number."""

import os
import pathlib
import re
import shutil
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf

from sparse_lib._utils.atomic import TEMPORARY
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage.files import check_path, translate_os_error

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_NAME = re.compile(r"^ckpt-(-?\d+)\.index$")
State = Mapping[str, Mapping[str, tf.Variable]]


_CHECKPOINT = re.compile(r"[/\\](?:ckpt-(-?\d+|best)|cp-0*(\d+)\.ckpt)(?:\.index)?$")
BEST = "ckpt-best"


def split_checkpoint(path: str) -> tuple[str, int | None]:
    """Splits the path of a checkpoint into run directory and step.

    Args:
      path: of a run directory or of a checkpoint in it.

    Returns:
      The run directory, and the step; None means the last one or, at the end of the path, `ckpt-best`.
    """
    match = _CHECKPOINT.search(path)
    if not match:
        return path, None
    step = match[1] or match[2]
    return path[: match.start()], None if step == "best" else int(step)


def checkpoint_key(name: str) -> str:
    """Returns the name of a variable inside a checkpoint, where slashes would be escaped."""
    return name.replace("/", ".")


def _stored_name(group: str, name: str) -> str:
    # TensorFlow doubles the dots of attribute names.
    return f"{group}/{checkpoint_key(name).replace('.', '..')}{_SUFFIX}"


def find(path: str | os.PathLike[str]) -> str:
    """Finds a checkpoint.

    Args:
      path: prefix of a checkpoint (`DIR/ckpt-500`), one of its files, a run directory (its last checkpoint),
        `DIR/ckpt-best` of a run with training.keep_best, or the form `cp-11719.ckpt` of the published commands.

    Returns:
      The prefix.

    Raises:
      RunError: if it does not exist; names the existing ones.
    """
    text = str(path).removesuffix(".index")
    if pathlib.Path(text).name == BEST:
        return _find_best(pathlib.Path(text).parent)
    text = re.sub(r"\.data-\d+-of-\d+$", "", text)
    renamed = re.sub(r"cp-0*(\d+)\.ckpt$", r"ckpt-\1", text)
    for prefix in (text, renamed):
        if pathlib.Path(prefix + ".index").exists():
            return prefix
    is_run = pathlib.Path(text).is_dir()
    folder = pathlib.Path(text) if is_run else pathlib.Path(text).parent
    steps = list_steps(folder) if folder.is_dir() else []
    if is_run and steps:
        return str(folder / f"ckpt-{steps[-1]}")
    existing = f"has ckpt-{', ckpt-'.join(map(str, steps))}" if steps else "has none"
    raise RunError(f"There is no checkpoint {path}; {folder} {existing}.")


def _find_best(directory: pathlib.Path) -> str:
    reader = Reader(directory)
    if not reader.names("best"):
        raise RunError(f"{directory} has no {BEST}: train with training.keep_best=True, or name a step.")
    return find(directory / f"ckpt-{int(reader.read('best', 'step'))}")


def list_steps(directory: pathlib.Path) -> list[int]:
    """Lists the steps of the complete checkpoints of a run, ascending, without those around mask updates."""
    return [step for step in list_numbers(directory) if step >= 0]


def list_numbers(directory: pathlib.Path) -> list[int]:
    """Lists the numbers of all complete checkpoints of a run, ascending.

    Args:
      directory: of the run.

    Returns:
      Steps; -(t - 1) and -t are the states before and after the mask update at step t.
    """
    matches = (_NAME.match(entry.name) for entry in directory.iterdir())
    return sorted(int(m.group(1)) for m in matches if m)


class Reader:
    """Tensors of one checkpoint, by group and name."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a checkpoint.

        Args:
          path: anything that `find` accepts.

        Raises:
          RunError: if it does not exist or is damaged.
        """
        self.prefix = find(path)
        check_path(self.prefix)
        try:
            self._reader = tf.train.load_checkpoint(self.prefix)
        except (tf.errors.OpError, ValueError, IndexError) as error:
            raise self._damage_error() from error
        self._shapes = self._reader.get_variable_to_shape_map()

    def _damage_error(self) -> RunError:
        remedy = f"delete {self.prefix}.* to go on from the one before it, or --overwrite the run"
        if self.prefix.endswith("ckpt-0"):
            # Every later state of the run is measured against it.
            remedy = "put back a copy of it, or --overwrite the run"
        return RunError(f"Checkpoint {self.prefix} is damaged (truncated or not a checkpoint): {remedy}.")

    def names(self, group: str) -> list[str]:
        """Lists the names of the variables of a group, with dots for slashes.

        Args:
          group: such as `model`, `masks`, `optimizer`.
        """
        start = f"{group}/"
        keys = (k for k in self._shapes if k.startswith(start) and k.endswith(_SUFFIX))
        return sorted(k[len(start) : -len(_SUFFIX)].replace("..", ".") for k in keys)

    def read(self, group: str, name: str) -> np.ndarray:
        """Reads the value of one variable.

        Args:
          group: such as `model`, `masks`, `optimizer`.
          name: of the variable.

        Returns:
          Its value.

        Raises:
          RunError: if the variable is missing or the file damaged.
        """
        key = _stored_name(group, name)
        if key not in self._shapes:
            raise RunError(f"Checkpoint {self.prefix} holds no {group}/{name}; it is of another network or method.")
        try:
            return self._reader.get_tensor(key)
        except (tf.errors.OpError, ValueError, IndexError) as error:
            raise self._damage_error() from error

    def read_group(self, group: str, variables: Mapping[str, Sequence[int]], network: str) -> dict[str, np.ndarray]:
        """Reads the values of a group, checked against the expected shapes.

        Args:
          group: such as `model` or `masks`.
          variables: expected shape by name.
          network: name of the network, for the message.

        Returns:
          Value by name.

        Raises:
          RunError: names the first variables that are missing, unexpected or of another shape.
        """
        stored = set(self.names(group))
        if variables and not stored:
            raise RunError(f"Checkpoint {self.prefix} holds no {group}; it comes from a run without them.")
        wanted = {checkpoint_key(name): tuple(shape) for name, shape in variables.items()}
        problems = [f"{name} is missing" for name in wanted if name not in stored]
        problems += [f"{name} is not in the network" for name in sorted(stored) if name not in wanted]
        for name, shape in wanted.items():
            found = self._shapes.get(_stored_name(group, name))
            if found is not None and tuple(found) != shape:
                problems.append(f"{name} has shape {tuple(found)}, not {shape}")
        if problems:
            raise RunError(f"Checkpoint {self.prefix} does not fit {network}: {group} {'; '.join(problems[:3])}.")
        return {name: self.read(group, name) for name in variables}


class Checkpoints:
    """Saves and restores the state of a run in its directory."""

    def __init__(
        self,
        directory: pathlib.Path,
        state: State,
        *,
        keep: int | None,
        network: str,
        keep_steps: Collection[int] = (),
    ) -> None:
        """Prepares saving; nothing is written yet.

        Args:
          directory: of the run.
          state: variables by group and name.
          keep: number of checkpoints to keep beside the first and the spared one (count); None keeps all.
          network: name of the network, for messages.
          keep_steps: steps of checkpoints that are kept beside these (step).
        """
        self.directory = directory
        self._state = {g: {checkpoint_key(n): v for n, v in vs.items()} for g, vs in state.items()}
        self._keep, self._keep_steps = keep, keep_steps
        self._network = network
        self._saver = tf.train.Checkpoint(**self._state)

    def save(self, step: int, *, spared: int | None = None) -> None:
        """Writes `ckpt-<step>` atomically, then deletes the oldest checkpoints.

        Args:
          step: of the checkpoint; negative around a mask update, where it is never deleted.
          spared: step of a checkpoint that is not deleted, whatever its age.

        Raises:
          RunError: if it cannot be written.
        """
        target = self.directory / f"ckpt-{step}"
        scratch = self.directory / f"{TEMPORARY}ckpt-{os.getpid()}"
        with translate_os_error(target):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                self._saver.write(str(scratch / "ckpt"))
            except tf.errors.OpError as error:
                raise OSError(error.message) from error
            pathlib.Path(f"{target}.index").unlink(missing_ok=True)
            # The index makes a checkpoint complete: the data go first.
            for file in sorted(scratch.iterdir(), key=lambda f: f.suffix == ".index"):
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(file, f"{target}{file.name.removeprefix('ckpt')}")
            scratch.rmdir()
        if self._keep is not None:
            # The first one holds the initial weights, which lottery tickets and distances need.
            kept = {spared, *self._keep_steps}
            for old in [s for s in list_steps(self.directory) if s > 0 and s not in kept][: -self._keep]:
                self.delete(old)

    def delete(self, step: int) -> None:
        """Deletes a checkpoint.

        Raises:
          RunError: if it cannot be deleted.
        """
        with translate_os_error(self.directory):
            (self.directory / f"ckpt-{step}.index").unlink()
            for file in self.directory.glob(f"ckpt-{step}.data-*"):
                file.unlink()

    def read_latest(self) -> tuple[int, dict[str, dict[str, np.ndarray]]] | None:
        """Reads the last checkpoint, and checks that every variable is present and fits; changes nothing.

        Returns:
          Its step and its values by group and name, or None without checkpoints.

        Raises:
          RunError: if it is damaged or does not fit.
        """
        steps = list_steps(self.directory)
        if not steps:
            return None
        reader = Reader(self.directory / f"ckpt-{steps[-1]}")
        values = {
            group: reader.read_group(group, {n: v.shape for n, v in variables.items()}, self._network)
            for group, variables in self._state.items()
            if variables
        }
        return steps[-1], values

    def restore_latest(self) -> int | None:
        """Restores the last checkpoint, and deletes the incomplete files of a killed process.

        Returns:
          Its step, or None without checkpoints.

        Raises:
          RunError: if it is damaged or does not fit; no variable and no file has changed then.
        """
        latest = self.read_latest()
        with translate_os_error(self.directory):
            self._delete_leftovers()
        if latest is None:
            return None
        step, values = latest
        for group, variables in self._state.items():
            for name, variable in variables.items():
                variable.assign(values[group][name])
        return step

    def _delete_leftovers(self) -> None:
        for leftover in self.directory.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for data in self.directory.glob("ckpt-*.data-*"):
            if data.is_file() and not data.with_suffix(".index").exists():
                data.unlink()
