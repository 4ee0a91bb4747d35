"""Reads gin files and bindings into gin's global configuration."""

import contextlib
import logging
import pathlib
import re
from collections.abc import Iterator, Sequence

import gin

from sparse_lib.experiment.config import gin_names
from sparse_lib.experiment.runtime.errors import SettingError


def parse(paths: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads files in order, then bindings, which win.

    Args:
      paths: of gin files; an `include` looks beside the file that it stands in first.
      bindings: such as `training.total_steps=100`.

    Raises:
      SettingError: for a missing file, an unknown name or a line that is not gin.
    """
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise SettingError(f"There is no gin file {path}; --gin_config takes paths such as configs/rigl.gin.")
    with _told(), _silent():
        for path in paths:
            with _beside(pathlib.Path(path).resolve()) as file:
                gin.parse_config_file(file)
        gin.parse_config(list(bindings))
        gin.finalize()


def operative() -> str:
    """The values that the objects built so far were built with, as a gin file."""
    return str(gin.operative_config_str())


def forget() -> None:
    """Forgets every file and binding, for a process that builds more than one experiment."""
    gin.clear_config()


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[str]:
    """Lets gin, which knows one list of places for all files, look beside this file first."""
    places = gin.config._LOCATION_PREFIXES
    gin.config._LOCATION_PREFIXES = [str(path.parent), *places]
    try:
        yield str(path)
    finally:
        gin.config._LOCATION_PREFIXES = places


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Mutes gin, which logs an error for every place where an included file is not."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tells what gin found in one line."""
    try:
        yield
    except (ValueError, AttributeError, SyntaxError, TypeError, OSError) as error:
        raise SettingError(_sentence(str(error))) from error


def _sentence(message: str) -> str:
    """Gin's message on one line, with the names that there are."""
    found, *where = [line.strip() for line in message.splitlines() if line.strip()] or ["This is not gin"]
    found = found.split(" in config string")[0].rstrip(".")
    place = f" ({where[0][:1].lower()}{where[0][1:]})" if where and where[0].startswith("In ") else ""
    return f"{found}{place}{_known(found)}."


def _known(found: str) -> str:
    parameters = gin_names.parameters()
    if found.startswith("No configurable matching"):
        return f"; the names are {', '.join(sorted(parameters))}"
    match = re.match(r"Configurable '([\w.]+)' doesn't have a parameter", found)
    return f"; it has {', '.join(parameters[match[1]])}" if match and match[1] in parameters else ""
