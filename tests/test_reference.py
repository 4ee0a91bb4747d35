"""The reference has every public module, and every public name of the package."""

import re
from pathlib import Path

import sparse_lib

ROOT = Path(__file__).resolve().parent.parent
PAGES = "\n".join(path.read_text(encoding="utf8") for path in sorted((ROOT / "docs" / "reference").glob("*.md")))
SHOWN = set(re.findall(r"^::: (\S+)$", PAGES, re.MULTILINE))
# `experiment` is what the command lines run; the others are behind `sparsify` and methods of `Masks`.
BEHIND_MASKS = {"dense_weights", "magnitude", "mask_checkpoints", "mask_files", "mask_report", "mask_sources"}
INTERNAL = {"experiment"} | BEHIND_MASKS


def test_every_public_module_is_in_the_reference():
    modules = {path.stem for path in (ROOT / "sparse_lib").iterdir() if path.suffix == ".py" or path.is_dir()}
    public = {name for name in modules if not name.startswith("_")} - INTERNAL
    assert {f"sparse_lib.{name}" for name in public} <= SHOWN


def test_every_public_name_is_in_the_reference():
    modules = {name: getattr(sparse_lib, name).__module__ for name in sparse_lib.__all__}
    missing = [
        name
        for name, module in modules.items()
        if f"sparse_lib.{name}" not in SHOWN and not any(f"{module}.".startswith(f"{shown}.") for shown in SHOWN)
    ]
    assert missing == []
