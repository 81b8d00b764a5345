"""Read the settings: the file, then the environment over it, then the command line over both.

Every fault becomes one line with its place: the file with the line, the variable, or the command line.

The surprise: `environment`, which reads the variables, is imported only where there are any.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mirror.config.reference import Place, keys_beside
from mirror.config.settings import DEFAULT_REPOSITORIES, Settings
from mirror.config.variables import NOT_SETTINGS, PREFIX
from mirror.errors import ConfigError, Misconfigured

Table = dict[str, Any]


def load(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    check: Callable[[Settings], object] = lambda settings: None,
) -> Settings:
    """Read the settings from a file (by default that of MIRROR_CONFIG, if any), the environment, and `overrides`.

    `overrides` has the structure of the file and wins over everything. `check` may find more faults, and raises
    Misconfigured. Raises ConfigError, whose message has one line for each fault, with its place. Creates nothing.
    """
    if path is None and os.environ.get("MIRROR_CONFIG"):
        path = Path(os.environ["MIRROR_CONFIG"])
    text = _read(path) if path else ""
    file = _parse(path, text) if path else {}
    sources = _Sources(path, text, _environment(), dict(overrides or {}))
    # A variable such as MIRROR_REPOSITORIES__PYPI__PRIVATE adds to the default repositories when no file names any.
    merged = _merged({"repositories": DEFAULT_REPOSITORIES} | file, sources.variables, sources.overrides)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise ConfigError("\n".join(sources.origin(fault["loc"]) + _sentence(fault) for fault in faults)) from None
    if reason := _unusable(settings.data_dir):
        raise ConfigError(f"{sources.origin(('data_dir',))}{settings.data_dir} {reason}")
    try:
        check(settings)
    except Misconfigured as error:
        raise ConfigError(f"{sources.origin(error.place)}{error}") from None
    return settings


class _Sources(NamedTuple):
    """All that was read, to name the place of a fault."""

    path: Path | None
    text: str
    variables: Table
    overrides: Table

    def origin(self, place: Place) -> str:
        """Return where the value at `place` comes from, to be followed by a sentence."""
        if _depth(self.overrides, place):
            return f"command line: {_dotted(place)}: "
        depth = _depth(self.variables, place)
        names = [PREFIX + "__".join(str(step) for step in place[:n]).upper() for n in range(depth, 0, -1)]
        if variable := next((name for name in names if name in os.environ), None):
            rest = _dotted(place[names[::-1].index(variable) + 1 :])
            return f"{variable}{rest}: " if rest.startswith("[") or not rest else f"{variable}: {rest}: "
        if self.path is None:
            return f"{_dotted(place)}: "
        line = line_of(self.text, place)
        where = f"{self.path}:{line}" if line else str(self.path)
        return f"{where}: {_dotted(place)}: " if place else f"{where}: "


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def _parse(path: Path, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, where = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", where)
        raise ConfigError(f"{path}{f':{line[1]}' if line else ''}: is not valid TOML: {reason}") from None


def _environment() -> Table:
    """Return the settings of the environment, in the structure of the file. Raises ConfigError."""
    if all(name in NOT_SETTINGS or not name.upper().startswith(PREFIX) for name in os.environ):
        return {}  # as nearly always: what reads them takes a while to import
    from mirror.config.environment import read_variables

    return read_variables()


def _merged(*layers: Mapping[str, Any]) -> Table:
    """Merge the layers table by table, a later one over an earlier one; what is not a table is replaced."""
    merged: Table = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _unusable(directory: Path) -> str | None:
    """Return why data cannot be stored in a directory, which need not exist yet; None when it can."""
    existing = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    if not existing.is_dir():
        return f"cannot be used: {existing} is not a directory"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"cannot be used: {existing} is not writable for this user"
    return None


def _sentence(fault: ErrorDetails) -> str:
    """Return the fault in the words of these settings. The input is never repeated: it may be a secret."""
    match fault["type"]:
        case "extra_forbidden":
            return f"is not a setting{_suggestion(str(fault['loc'][-1]), keys_beside(fault['loc']))}"
        case "missing":
            return "is missing"
        case "value_error":
            return str(fault["msg"]).removeprefix("Value error, ")
        case "tuple_type":
            return "should be a list"
        case "dict_type" | "model_type":
            return "should be a table"
        case "path_type":
            return "should be a path"
        case "string_pattern_mismatch":
            return "has characters that it may not have"
    return str(fault["msg"]).replace("Input should", "should", 1)


def _dotted(place: Place) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")


def _suggestion(word: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _depth(value: object, place: Place) -> int:
    """Return how many steps of `place` exist in `value`."""
    for taken, step in enumerate(place):
        match value, step:
            case dict(), _ if step in value:
                value = value[step]
            case list(), int() if step < len(value):
                value = value[step]
            case _:
                return taken
    return len(place)


def line_of(text: str, place: Place) -> int | None:
    """Return the line of a TOML text on which the statement begins that sets `place`, or the nearest table above it.

    The parser gives no lines, so ever longer beginnings of the text are parsed: the statement that first makes the
    place exist is the one. None when no part of it is in the text, or when the text is very long.
    """
    lines = text.splitlines()
    if len(lines) > 2000:
        return None
    found, deepest, begin = None, 0, 1
    for count in range(1, len(lines) + 1):
        try:
            depth = _depth(tomllib.loads("\n".join(lines[:count])), place)
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a statement of several lines
        if depth > deepest:
            found, deepest = begin, depth
        begin = count + 1
    return found
