"""Loads a data set from keywords, with folders as paths."""

import pathlib
from typing import Any

from sparse_lib.experiment.data import Dataset, DataSettings, load_dataset


def load(**settings: Any) -> Dataset:
    return load_dataset(
        DataSettings(**{name: str(v) if isinstance(v, pathlib.Path) else v for name, v in settings.items()})
    )
