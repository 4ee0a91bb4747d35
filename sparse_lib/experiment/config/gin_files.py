"""Reads gin files and bindings into gin's global configuration."""

import contextlib
import difflib
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import gin
from absl import logging
from gin import config_parser, utils

from sparse_lib._utils.did_you_mean import closest_names, suggest
from sparse_lib.experiment.config import gin_names
from sparse_lib.experiment.runtime.errors import RunError, SettingError


def parse(paths: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads files in order, then bindings, which override them.

    Args:
      paths: gin files. An `include` is looked for beside the file that includes it, then in the working directory.
      bindings: such as `training.total_steps=100`.

    Raises:
      SettingError: for a missing file, an unknown name, a line that is not gin, an `import`, files that include each
        other, or a macro that nothing uses.
    """
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise SettingError(f"There is no gin file {path}; --gin_config takes paths such as configs/rigl.gin.")
    statements = _Statements()
    with _one_line_errors():
        for path in paths:
            statements.bind_file(pathlib.Path(path).resolve(), ())
        # After the last line the tokenizer would have no text for an error.
        statements.bind(io.StringIO("".join(f"{binding}\n" for binding in bindings)), pathlib.Path.cwd(), ())
        statements.check_macros()
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


def read_bound(configurable: str, parameter: str) -> Any:
    """Returns the value of a binding without adding it to the operative configuration.

    Args:
      configurable: gin name.
      parameter: its parameter.

    Returns:
      The value, that of the macro if a macro is bound; None if nothing is bound.

    Raises:
      SettingError: for a macro that no line defines.
    """
    value = gin.get_bindings(configurable, resolve_references=False).get(parameter)
    with _one_line_errors():
        for name in _list_macros(value):
            return gin.query_parameter(f"{name}/gin.macro.value")
    return value


def rebind(configurable: str, parameter: str, value: Any) -> None:
    """Binds a parameter after all files are read.

    Args:
      configurable: gin name.
      parameter: its parameter.
      value: replaces what is bound.
    """
    with gin.unlock_config():
        gin.bind_parameter(f"{configurable}.{parameter}", value)


def forget() -> None:
    """Clears all files and bindings, for a process that builds more than one experiment."""
    gin.clear_config()


# Share of equal characters above which two names of macros are taken for one (fraction).
_MISSPELT = 0.8


class _Statements:
    """Executes the statements of gin texts in order, and checks that their macros are of use.

    `gin.parse_config_file` has one search path for all files and executes imports, so that the statements of gin's
    parser are executed here.
    """

    def __init__(self) -> None:
        """Starts without statements."""
        self._macros: dict[str, set[str]] = {}
        self._used: set[str] = set()
        # By name, the files that define a macro; None is the command line.
        self._places: dict[str, set[pathlib.Path | None]] = {}

    def bind_file(self, path: pathlib.Path, including: tuple[pathlib.Path, ...]) -> None:
        """Executes a file.

        Args:
          path: of the file.
          including: files that led to it, outermost first.
        """
        if path in including:
            chain = " -> ".join(file.name for file in (*including[including.index(path) :], path))
            raise SettingError(f"These gin files include each other, remove one of the includes: {chain}")
        with path.open(encoding="utf8") as file:
            self.bind(file, path.parent, (*including, path))

    def bind(self, source: TextIO, folder: pathlib.Path, including: tuple[pathlib.Path, ...]) -> None:
        """Executes a text.

        Args:
          source: text with a `name`, or a binding without one.
          folder: first place of included files.
          including: the file of this text and those that led to it, outermost first.
        """
        try:
            for statement in config_parser.ConfigParser(source, gin.config.ParserDelegate()):
                with utils.try_with_location(statement.location):
                    self._execute(statement, folder, including)
        except tokenize.TokenError as error:
            name = getattr(source, "name", "the bindings")
            raise SettingError(f"A bracket or quote is opened and not closed in {name}") from error

    def _execute(self, statement: Any, folder: pathlib.Path, including: tuple[pathlib.Path, ...]) -> None:
        if isinstance(statement, config_parser.ImportStatement):
            raise SettingError(
                "A gin file must not run code, since it may be somebody else's: delete the import of "
                f"{statement.module}; --updater_module imports an updater of your own"
            )
        if isinstance(statement, config_parser.IncludeStatement):
            self.bind_file(_find(statement.filename, folder), including)
        elif isinstance(statement, config_parser.BindingStatement):
            scope, selector, parameter, value, _ = statement
            is_macro = not parameter or selector in ("macro", "gin.macro")
            if scope and not is_macro:
                raise SettingError(
                    f"No setting is read in a scope: write {selector}.{parameter}, without {scope}/ before it"
                )
            used = set(_list_macros(value))
            self._used |= used
            if is_macro:
                name = scope if parameter else f"{scope}/{selector}" if scope else selector
                self._macros[name] = used
                self._places.setdefault(name, set()).add(including[-1] if including else None)
                gin.bind_parameter((name, "gin.macro", "value"), value)
            else:
                gin.bind_parameter((scope, selector, parameter), value)

    def check_macros(self) -> None:
        """Checks the macros of all statements so far.

        A file may define macros that go unused, since those of networks define what all methods take, unless their
        names look like misspelt ones of other files. The command line has no such reason.

        Raises:
          SettingError: if no statement uses a macro of the command line, or one that seems misspelt, or if macros are
            defined by each other.
        """
        for name, places in self._places.items():
            if name in self._used:
                continue
            if None in places and len(places) > 1:
                logging.warning("Nothing in this configuration uses the macro %s; it changes nothing.", name)
                continue
            others = [used for used in self._used if None in places or not places & self._places.get(used, set())]
            if None in places or difflib.get_close_matches(name, others, cutoff=_MISSPELT):
                known = sorted(self._used)
                listed = f"the macros in use are {closest_names(name, known)}" if known else "no macro is in use"
                raise SettingError(f"Nothing uses the macro {name}{suggest(name, others)}; {listed}")
        unresolved = dict(self._macros)
        while resolved := [name for name, used in unresolved.items() if not used & unresolved.keys()]:
            for name in resolved:
                del unresolved[name]
        if unresolved:
            raise SettingError(f"These macros are defined by each other: {', '.join(sorted(unresolved))}")


def _list_macros(value: Any) -> Iterator[str]:
    """Yields the names of the macros that a value refers to."""
    if isinstance(value, gin.config.ConfigurableReference):
        if repr(value).startswith("%"):
            yield repr(value)[1:]
    elif isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            yield from _list_macros(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _list_macros(item)


def _find(name: str, folder: pathlib.Path) -> pathlib.Path:
    for place in (folder, pathlib.Path.cwd()):
        if (place / name).is_file():
            return (place / name).resolve()
    raise SettingError(f"Unable to open file: {name}. It is neither in {folder} nor in the working directory")


# What gin, Python's tokenizer and `ast.literal_eval` raise for texts that are not gin.
_PARSE_ERRORS = (
    *(ValueError, AttributeError, SyntaxError, TypeError, OSError, NameError, ImportError, LookupError),
    *(RecursionError, MemoryError, AssertionError, OverflowError, RunError),
)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns gin's errors into a `SettingError` of one line."""
    try:
        yield
    except RecursionError as error:
        raise SettingError("A gin value has too many brackets inside each other.") from error
    except _PARSE_ERRORS as error:
        message = _format_syntax_error(error) if isinstance(error, SyntaxError) else str(error)
        raise SettingError(_format_error(message)) from error


def _format_syntax_error(error: SyntaxError) -> str:
    """Explains the frequent mistakes by the line that holds them, and leaves the others to gin."""
    line = (error.text or "").strip()
    name = line.partition("=")[0].strip()
    where = f" ({f'{error.filename}, ' if error.filename else ''}line {error.lineno})"
    if token := re.search(r"Failed to parse token '(.*)'", error.msg, re.DOTALL):
        text = token[1].splitlines()[0]
        is_long = len(text) > 100
        wanted = f", such as {name}='{text}'" if re.fullmatch(r"[\w.]+", name) and not is_long else ""
        return f"{name}={text[:100]} is not a Python literal, and a text needs quotes{wanted}{where}"
    if error.msg.startswith("Couldn't parse statement"):
        return f"{line[:100]!r} has no value; write NAME = VALUE{where}"
    return str(error)


def _format_error(message: str) -> str:
    """Puts gin's message on one line, with the valid names."""
    found, *where = [line.strip() for line in message.splitlines() if line.strip()] or ["This is not gin"]
    found = found.split(" in config string")[0].rstrip(".")
    if undefined := re.match(r"No bindings specified for '(.*)/gin.macro'", found):
        found = f"No line defines the macro {undefined[1]}; write {undefined[1]} = VALUE"
    place = f" ({where[0][:1].lower()}{where[0][1:]})" if where and where[0].startswith("In ") else ""
    return f"{found}{place}{_valid_names(found)}."


def _valid_names(found: str) -> str:
    parameters = gin_names.parameters()
    if unknown := re.match(r"No configurable matching (?:reference )?'@?([\w./]*)", found):
        return f"; the names are {', '.join(sorted(parameters))}{suggest(unknown[1], parameters)}"
    match = re.match(r"Configurable '([\w.]+)' doesn't have a parameter named '([\w.]*)'", found)
    if not match or match[1] not in parameters:
        return ""
    return f"; it has {', '.join(parameters[match[1]])}{suggest(match[2], parameters[match[1]])}"
