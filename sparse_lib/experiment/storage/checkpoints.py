"""Checkpoints of a run: atomic, checked against the model before anything is loaded, bounded in number."""

import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from sparse_lib._utils.atomic import TEMPORARY
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage.files import translate_os_error

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_NAME = re.compile(r"^ckpt-(-?\d+)\.index$")
State = Mapping[str, Mapping[str, tf.Variable]]


def checkpoint_key(name: str) -> str:
    """The name of a variable inside a checkpoint: slashes would be escaped there."""
    return name.replace("/", ".")


def _stored_name(group: str, name: str) -> str:
    # TensorFlow doubles the dots of an attribute's name.
    return f"{group}/{checkpoint_key(name).replace('.', '..')}{_SUFFIX}"


def find(path: str | os.PathLike[str]) -> str:
    """The checkpoint that a user means.

    Args:
      path: prefix of a checkpoint (`DIR/ckpt-500`), one of its files, a run directory (its last checkpoint), or the
        form `cp-11719.ckpt` of the published commands.

    Returns:
      The prefix.

    Raises:
      RunError: if there is none; names those that exist.
    """
    text = str(path).removesuffix(".index")
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
    there = f"has ckpt-{', ckpt-'.join(map(str, steps))}" if steps else "has none"
    raise RunError(f"There is no checkpoint {path}; {folder} {there}.")


def list_steps(directory: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints of a run, ascending; those around mask updates (negative) left out."""
    return [step for step in list_numbers(directory) if step >= 0]


def list_numbers(directory: pathlib.Path) -> list[int]:
    """Numbers of all complete checkpoints of a run, ascending.

    Args:
      directory: of the run.

    Returns:
      Steps; -(t - 1) and -t are the states before and after the mask update at step t.
    """
    matches = (_NAME.match(entry.name) for entry in directory.iterdir())
    return sorted(int(m.group(1)) for m in matches if m)


class Reader:
    """The tensors of one checkpoint, by group and name."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a checkpoint.

        Args:
          path: what `find` understands.

        Raises:
          RunError: if there is none or it is damaged.
        """
        self.prefix = find(path)
        try:
            self._reader = tf.train.load_checkpoint(self.prefix)
        except (tf.errors.OpError, ValueError, IndexError) as error:
            raise self._damaged() from error
        self._shapes = self._reader.get_variable_to_shape_map()

    def _damaged(self) -> RunError:
        return RunError(
            f"Checkpoint {self.prefix} is damaged (truncated or not a checkpoint): delete {self.prefix}.* to go on "
            "from the one before it, or --overwrite the run."
        )

    def names(self, group: str) -> list[str]:
        """Names of the variables of a group, slashes as dots."""
        start = f"{group}/"
        keys = (k for k in self._shapes if k.startswith(start) and k.endswith(_SUFFIX))
        return sorted(k[len(start) : -len(_SUFFIX)].replace("..", ".") for k in keys)

    def read(self, group: str, name: str) -> np.ndarray:
        """The value of one variable.

        Args:
          group: such as `model`, `masks`, `optimizer`.
          name: of the variable.

        Returns:
          A numpy array.

        Raises:
          RunError: if it is not there or the file is damaged.
        """
        key = _stored_name(group, name)
        if key not in self._shapes:
            raise RunError(f"Checkpoint {self.prefix} holds no {group}/{name}; it is of another network or method.")
        try:
            return self._reader.get_tensor(key)
        except (tf.errors.OpError, ValueError, IndexError) as error:
            raise self._damaged() from error

    def read_group(self, group: str, variables: Mapping[str, Sequence[int]], network: str) -> dict[str, np.ndarray]:
        """The values of a group, checked against the shapes that are expected.

        Args:
          group: such as `model` or `masks`.
          variables: shape by name.
          network: what the message calls the expecting side.

        Returns:
          Value by name.

        Raises:
          RunError: names the first variables that are missing, left over or of another shape.
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

    def __init__(self, directory: pathlib.Path, state: State, *, keep: int | None, network: str) -> None:
        """Names what is saved.

        Args:
          directory: of the run.
          state: variables by group and name.
          keep: how many checkpoints to keep beside the first one (count); None keeps all.
          network: name of the network, for messages.
        """
        self.directory = directory
        self._state = {g: {checkpoint_key(n): v for n, v in vs.items()} for g, vs in state.items()}
        self._keep = keep
        self._network = network
        self._saver = tf.train.Checkpoint(**self._state)

    def save(self, step: int) -> None:
        """Writes `ckpt-<step>`; it exists only once it is complete.

        Args:
          step: of the checkpoint; a negative one lies beside a mask update and is never deleted.

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
            # A checkpoint is what has an index: the data go first.
            for file in sorted(scratch.iterdir(), key=lambda f: f.suffix == ".index"):
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(file, f"{target}{file.name.removeprefix('ckpt')}")
            scratch.rmdir()
            self._forget()

    def _forget(self) -> None:
        if self._keep is None:
            return
        # The first one holds the initial weights: lottery tickets and distances need it.
        for step in [s for s in list_steps(self.directory) if s > 0][: -self._keep]:
            (self.directory / f"ckpt-{step}.index").unlink()
            for file in self.directory.glob(f"ckpt-{step}.data-*"):
                file.unlink()

    def restore_latest(self) -> int | None:
        """Restores the last checkpoint, after checking that every variable is there and fits.

        Returns:
          Its step, or None if there is none.

        Raises:
          RunError: if it is damaged or does not fit; nothing has been changed then.
        """
        self._tidy()
        steps = list_steps(self.directory)
        if not steps:
            return None
        reader = Reader(self.directory / f"ckpt-{steps[-1]}")
        values = {
            group: reader.read_group(group, {n: v.shape for n, v in variables.items()}, self._network)
            for group, variables in self._state.items()
            if variables
        }
        for group, variables in self._state.items():
            for name, variable in variables.items():
                variable.assign(values[group][name])
        return steps[-1]

    def _tidy(self) -> None:
        """Removes what a killed process was writing or deleting."""
        for leftover in self.directory.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for data in self.directory.glob("ckpt-*.data-*"):
            if not data.with_suffix(".index").exists():
                data.unlink()
