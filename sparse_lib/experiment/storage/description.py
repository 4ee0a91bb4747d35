"""The description of a run in its run.json, which is read without TensorFlow."""

import math
import pathlib
from typing import NamedTuple

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.storage import files


class Description(NamedTuple):
    """Identity of a run among others.

    Attributes:
      method: name with suffixes, parts joined by dots, such as `rigl.plus.erk`.
      label: of the method without its suffixes where an updater moves the masks, such as `RigL`; else empty.
      setting: network and data; only runs of one setting are compared.
      network: gin name of the network.
      data: name of the data set.
      target_sparsity: that the configuration aims at, or that of the network which a small dense one is as large as
        (fraction); NaN where the masks are those of another run.
      mask_source: path of the run or checkpoint whose masks the run takes; empty if none.
      seed: of the order of the data, which is that of the run unless training.data_seed is set.
      total_steps: length of the run (step).
    """

    method: str
    label: str
    setting: str
    network: str
    data: str
    target_sparsity: float
    mask_source: str
    seed: int
    total_steps: int


def read_description(path: pathlib.Path) -> Description:
    """Reads run.json.

    Args:
      path: of the file.

    Returns:
      Its content.

    Raises:
      RunError: if it cannot be read as a description.
    """
    stored = files.read_json(path, "the configuration describes the run", ["target_sparsity"])
    with files.report_damage(path, "the configuration describes the run"):
        files.require_numbers(stored, ["target_sparsity", "seed", "total_steps"])
        described = Description(**stored | {"target_sparsity": _number(stored["target_sparsity"])})
        texts = (described.method, described.label, described.setting, described.network, described.data)
        if not all(isinstance(text, str) for text in (*texts, described.mask_source)):
            raise InputError("it is no description of a run")
        return described


def _number(value: float | None) -> float:
    # JSON has no NaN.
    return math.nan if value is None else value
