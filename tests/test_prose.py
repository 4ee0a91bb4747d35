"""Mechanical checks of the English: verbs as names of functions, one dialect of docstrings."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("sparse_lib", "analysis", "benchmarks", "examples")
FILES = [
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))),
    *(ROOT / f"{name}.py" for name in ("train", "hessian", "interpolate")),
]
# Benchmarks are scripts; the linter asks them for no docstrings, either.
WITHOUT_DOCSTRINGS = "benchmarks"

PARTICIPLE = re.compile(
    r"\w+ed|begun|broken|brought|built|caught|chosen|done|drawn|driven|fallen|felt|given|gone|grown|held|hidden|kept|known"
    r"|laid|led|left|lent|lost|made|meant|met|paid|said|seen|sent|shown|shrunk|sought|spent|stood|taken|taught|thought"
    r"|told|torn|understood|woven|written"
)
VERB_OR_NOUN = re.compile("embed|exceed|feed|need|proceed|seed|shed|shred|speed")
PARTICLES = re.compile("(_(anew|apart|again|at|away|by|down|for|from|in|into|of|off|on|out|over|to|together|up|with))*")
# Public names that return a changed copy, as Python's `sorted` does, and are older than the rule.
ALLOWED = {"aligned", "assembled", "restricted", "shifted", "shuffled", "stored", "tempered"}

SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:")
PROPER_NOUN = re.compile(
    "Adam|Bernoulli|Fisher|Fourier|Gauss|Gaussian|Gini|Glorot|Gumbel|Hessian|Hutchinson|Jaccard|Jacobian|Kendall|Keras"
    "|Kruskal|Kullback|Lanczos|Laplace|Nesterov|Pearson|Python|Rademacher|Ritz|Spearman|Student|Welch"
)


def participles(source: str) -> Iterator[str]:
    """Yields line and name of each function named by a participle; properties and booleans may be."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or any("property" in ast.unparse(d) for d in node.decorator_list):
            continue
        if node.returns is not None and ast.unparse(node.returns) == "bool":
            continue
        first, *rest = node.name.strip("_").partition("_")
        if node.name in ALLOWED or VERB_OR_NOUN.fullmatch(first):
            continue
        if PARTICIPLE.fullmatch(first) and PARTICLES.fullmatch("".join(rest)):
            yield f"{node.lineno}: {node.name}"


def one_a(source: str) -> Iterator[str]:
    """Yields lines with "one a kernel" instead of "one per kernel"."""
    for number, line in enumerate(source.splitlines(), 1):
        if re.search(r"\bone a \w", line):
            yield f"{number}: {line.strip()}"


def other_dialects(source: str) -> Iterator[str]:
    """Yields entries of docstring sections that are not indented by two, or whose description is capitalised."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield from _in_docstring(ast.get_docstring(node) or "", getattr(node, "lineno", 1))


def _in_docstring(text: str, place: int) -> Iterator[str]:
    section, is_first = "", False
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line and not indent:
            section, is_first = line if line in SECTIONS else "", True
        elif section and line:
            entry = re.match(r"  \*{0,2}[\w.]+: (\w+)", line)
            wrong_case = entry and section != "Returns:" and _is_capitalised(entry[1])
            if wrong_case or (is_first and indent != 2):
                yield f"{place}: {line.strip()}"
            is_first = False


def _is_capitalised(word: str) -> bool:
    return word[0].isupper() and word[1:].islower() and not PROPER_NOUN.fullmatch(word)


def undocumented(source: str) -> Iterator[str]:
    """Yields public functions and classes at the top level, and public methods of such classes, without a docstring."""
    todo = [("", node) for node in ast.parse(source).body]
    while todo:
        prefix, node = todo.pop(0)
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        overloads = any("overload" in ast.unparse(d) or ".setter" in ast.unparse(d) for d in node.decorator_list)
        if not ast.get_docstring(node) and not overloads:
            yield f"{node.lineno}: {prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            todo += [(f"{node.name}.", inner) for inner in node.body]


CHECKS = (participles, one_a, other_dialects, undocumented)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_prose(check):
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if not (check is undocumented and path.is_relative_to(ROOT / WITHOUT_DOCSTRINGS))
        for line in check(path.read_text(encoding="utf8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (participles, "def _claimed(): ..."),
        (participles, "def told(): ..."),
        (participles, "def summed_up(): ..."),
        (participles, "class A:\n    def _made_anew(self): ..."),
        (one_a, "# One mask, one a kernel."),
        (other_dialects, '"""A.\n\nArgs:\n    a: the a.\n"""'),
        (other_dialects, 'def f():\n    """A.\n\n    Args:\n      a: The a.\n    """'),
        (undocumented, "def public(): ..."),
        (undocumented, 'class A:\n    """A."""\n    def public(self): ...'),
    ],
)
def test_bad_prose_is_found(check, source):
    assert len(list(check(source))) == 1


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (participles, "def claim(): ...\ndef seed(): ...\ndef has_converged(): ...\ndef remove_unused(): ..."),
        (participles, "class A:\n    @cached_property\n    def built(self): ...\n\ndef finished() -> bool: ..."),
        (one_a, "# One per kernel; one and all."),
        (
            other_dialects,
            '"""A.\n\nArgs:\n  a: the a, which\n    goes on: here.\n  b: Lanczos steps.\n\nReturns:\n  The a.\n"""',
        ),
        (
            undocumented,
            "def _private(): ...\nclass _A:\n    def public(self): ...\ndef f():\n    '''F.'''\n    def g(): ...",
        ),
    ],
)
def test_good_prose_passes(check, source):
    assert list(check(source)) == []
