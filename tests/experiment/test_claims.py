"""The paper's claims hold on the embedded digits, with margins below what three seeds show."""

import pathlib

import numpy as np
import pytest

from benchmarks import claims


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return claims.study(tmp_path_factory.mktemp("claims"))


def mean(rows: list[dict], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))
