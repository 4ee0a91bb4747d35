"""A network of 1.1 billion dense weights fits into little memory."""

import json
import subprocess
import sys

import pytest

from tests.documents import ROOT


@pytest.mark.slow
def test_a_billion_weights_train_in_less_than_3_gigabytes():
    command = [sys.executable, "-m", "benchmarks.sparse_dense", "--units", "32768", "--sparsity", "0.999"]
    done = subprocess.run(
        [*command, "--epochs", "1", "--frequency", "6"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert found["dense_weights"] > 1.07e9
    assert 1.07e6 < found["active_weights"] < 1.4e6
    assert found["update_seconds"] > 0
    assert found["gradient_norm"] > 0
    assert found["file_megabytes"] < 30
    assert found["peak_gigabytes"] < 3
