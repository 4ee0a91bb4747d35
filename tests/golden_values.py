"""Golden values: what the published code computes, and what this code computed when it was checked against it."""

import json
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def read_golden(name: str) -> dict:
    """Returns the content of `tests/golden/<name>.json`."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf8"))
