"""Python fragments of the documentation."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
FRAGMENT = re.compile(r"^```py\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run_fragments(document: pathlib.Path, names: dict[str, object]) -> None:
    """Runs the fragments of a document one after the other."""
    fragments = FRAGMENT.findall(document.read_text(encoding="utf8"))
    assert fragments
    for text in fragments:
        exec(compile(text, document.name, "exec"), names)
