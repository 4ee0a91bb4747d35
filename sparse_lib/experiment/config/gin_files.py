"""Reads gin files and bindings into gin's global configuration."""

import contextlib
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import gin
from gin import config_parser, utils

from sparse_lib.experiment.config import gin_names
from sparse_lib.experiment.runtime.errors import SettingError


def parse(paths: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads files in order, then bindings, which override them.

    Args:
      paths: gin files. An `include` is looked for beside the file that includes it, then in the working directory.
      bindings: such as `training.total_steps=100`.

    Raises:
      SettingError: for a missing file, an unknown name, a line that is not gin, an `import`, or files that include
        each other.
    """
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise SettingError(f"There is no gin file {path}; --gin_config takes paths such as configs/rigl.gin.")
    with _one_line_errors():
        for path in paths:
            _bind_file(pathlib.Path(path).resolve(), ())
        _bind(io.StringIO("\n".join(bindings)), pathlib.Path.cwd(), ())
        gin.finalize()


def operative() -> str:
    """Returns the values of all objects built so far, as the text of a gin file."""
    return str(gin.operative_config_str())


def operative_by_data_seed(seeds: Sequence[int]) -> dict[int, str]:
    """Returns the operative configurations of copies of a run that differ in the order of their data.

    Args:
      seeds: of the data orders, values of training.data_seed.

    Returns:
      Text by seed; gin's configuration is the same afterwards.
    """
    texts, original = {}, gin.get_bindings("training").get("data_seed")
    with gin.unlock_config():
        for seed in (*seeds, original):
            gin.bind_parameter("training.data_seed", seed)
            # Gin records a binding when it is used.
            gin_names.training()
            texts[seed] = operative()
    return {seed: texts[seed] for seed in seeds}


def read_unrecorded(settings: type[gin_names.Kind]) -> gin_names.Kind:
    """Builds settings from their bindings without adding them to the operative configuration.

    Args:
      settings: class of the settings.

    Returns:
      The settings.

    Raises:
      SettingError: for a value that a setting cannot have.
    """
    return settings(**gin.get_bindings(settings.config_name))


def forget() -> None:
    """Clears all files and bindings, for a process that builds more than one experiment."""
    gin.clear_config()


def _bind_file(path: pathlib.Path, including: tuple[pathlib.Path, ...]) -> None:
    if path in including:
        chain = " -> ".join(file.name for file in (*including[including.index(path) :], path))
        raise SettingError(f"These gin files include each other, remove one of the includes: {chain}")
    with path.open(encoding="utf8") as file:
        _bind(file, path.parent, (*including, path))


def _bind(source: TextIO, folder: pathlib.Path, including: tuple[pathlib.Path, ...]) -> None:
    """Executes the statements of a gin text in order.

    `gin.parse_config_file` has one search path for all files and executes imports, so that the statements of gin's
    parser are executed here.

    Args:
      source: text with a `name`, or bindings without one.
      folder: first place of included files.
      including: the file of this text and those that led to it, outermost first.
    """
    try:
        for statement in config_parser.ConfigParser(source, gin.config.ParserDelegate()):
            with utils.try_with_location(statement.location):
                _execute(statement, folder, including)
    except tokenize.TokenError as error:
        name = getattr(source, "name", "the bindings")
        raise SettingError(f"A bracket or quote is opened and not closed in {name}") from error


def _execute(statement: Any, folder: pathlib.Path, including: tuple[pathlib.Path, ...]) -> None:
    if isinstance(statement, config_parser.ImportStatement):
        raise SettingError(
            f"A gin file must not run code, since it may be somebody else's: delete the import of {statement.module}; "
            "--updater_module imports an updater of your own"
        )
    if isinstance(statement, config_parser.IncludeStatement):
        _bind_file(_find(statement.filename, folder), including)
    elif isinstance(statement, config_parser.BindingStatement):
        scope, selector, parameter, value, _ = statement
        macro = f"{scope}/{selector}" if scope else selector
        gin.bind_parameter((scope, selector, parameter) if parameter else (macro, "gin.macro", "value"), value)


def _find(name: str, folder: pathlib.Path) -> pathlib.Path:
    for place in (folder, pathlib.Path.cwd()):
        if (place / name).is_file():
            return (place / name).resolve()
    raise SettingError(f"Unable to open file: {name}. It is neither in {folder} nor in the working directory")


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns gin's errors into a `SettingError` of one line."""
    try:
        yield
    except (SettingError, ValueError, AttributeError, SyntaxError, TypeError, OSError) as error:
        raise SettingError(_format_error(str(error))) from error


def _format_error(message: str) -> str:
    """Puts gin's message on one line, with the valid names."""
    found, *where = [line.strip() for line in message.splitlines() if line.strip()] or ["This is not gin"]
    found = found.split(" in config string")[0].rstrip(".")
    if found.startswith("malformed node"):
        found = "A value is not a Python literal (a text needs quotes)"
    place = f" ({where[0][:1].lower()}{where[0][1:]})" if where and where[0].startswith("In ") else ""
    return f"{found}{place}{_valid_names(found)}."


def _valid_names(found: str) -> str:
    parameters = gin_names.parameters()
    if found.startswith("No configurable matching"):
        return f"; the names are {', '.join(sorted(parameters))}"
    match = re.match(r"Configurable '([\w.]+)' doesn't have a parameter", found)
    return f"; it has {', '.join(parameters[match[1]])}" if match and match[1] in parameters else ""
