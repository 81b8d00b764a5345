"""Untrusted text to typed values: bounded, and every error with file and line.

Reads no file itself. The surprise: TOML and JSON parsers know the line of a syntax error but not that of a wrong value,
so the line of the latter is found again from the path in the error (`$.package[3].version`).
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import Version

from mirror.airgap.lockfiles.requirement_set import ExternalRequirement, PinnedFile, check_marker
from mirror.errors import InvalidLock

T = TypeVar("T")

MAX_FILE_BYTES = 32 << 20
"""The largest file that is read."""
MAX_KEY_PARTS = 32
"""The most parts of a dotted key: a parser takes the square of their number."""
_KEY = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-])(?:{_KEY}[ \t]*+\.[ \t]*+){{{MAX_KEY_PARTS}}}", re.ASCII)


class LockDocument:
    """The text of one file, with its name for errors."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def invalid(self, reason: str, line: int | None = None) -> InvalidLock:
        """Return the error for a reason, to be raised."""
        return InvalidLock(self.name, line, reason)

    def line(self, pattern: str) -> int | None:
        """Return the line of the first match of a multi-line pattern, or None."""
        return next((line for _, line in self.lines(pattern)), None)

    def lines(self, pattern: str) -> Iterator[tuple[str, int]]:
        """Yield all matches of a multi-line pattern, each with its line."""
        line, counted = 1, 0
        for match in re.finditer(pattern, self.text, re.MULTILINE):
            line += self.text.count("\n", counted, match.start())
            counted = match.start()
            yield match[0], line

    def tables(self, name: str) -> Iterator[int | None]:
        """Yield the lines of the headings of an array of tables, then None without end."""
        yield from (line for _, line in self.lines(rf"^\[\[{name}\]\]"))
        while True:
            yield None

    def where(self, line: int | None) -> str:
        """Return a place in the file, for reports."""
        return self.name if line is None else f"{self.name}:{line}"

    def toml(self) -> dict[str, Any]:
        """Parse the text as TOML. Raises InvalidLock."""
        if long_key := _LONG_KEY.search(self.text):
            line = self.text.count("\n", 0, long_key.start()) + 1
            raise self.invalid(f"it has a key of more than {MAX_KEY_PARTS} parts", line)
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            reason, _, place = str(error).partition(" (at ")
            found = re.match(r"line (\d+)", place)
            last = self.text.rstrip().count("\n") + 1  # without a place, the text ends too early
            raise self.invalid(f"it is not TOML: {reason}", int(found[1]) if found else last) from error
        except RecursionError as error:
            raise self.invalid("it is nested too deeply") from error
        except ValueError as error:  # a number that is longer than Python reads
            raise self.invalid("it holds a number with too many digits") from error

    def convert(self, value: object, shape: type[T]) -> T:
        """Convert a value to a type. Raises InvalidLock, with the line where that is known."""
        try:
            return msgspec.convert(value, shape)
        except msgspec.ValidationError as error:
            raise self.wrong_value(str(error)) from error

    def json(self, shape: type[T]) -> T:
        """Parse the text as JSON of a type. Raises InvalidLock."""
        try:
            return msgspec.json.decode(self.text, type=shape)
        except msgspec.ValidationError as error:
            raise self.wrong_value(str(error)) from error
        except (msgspec.DecodeError, RecursionError) as error:
            found = re.search(r"\(byte (\d+)\)", str(error))
            before = self.text.rstrip().encode()[: int(found[1]) if found else None]  # as above
            raise self.invalid(f"it is not JSON: {error}", before.count(b"\n") + 1) from error

    def wrong_value(self, message: str) -> InvalidLock:
        """Return the error for a message that names its place as `package[3].…`."""
        found = re.search(r"\b(packages?)\[(\d+)\]", message)
        line = next(islice(self.tables(found[1]), int(found[2]), None)) if found else None
        return self.invalid(message, line)

    def name_of(self, text: str, line: int | None) -> str:
        """Return a Python project's canonical name. Raises InvalidLock."""
        try:
            return canonicalize_name(text, validate=True)
        except InvalidName as error:
            raise self.invalid(f"{text!r} is not a project name", line) from error

    def version_of(self, text: str, line: int | None) -> str:
        """Return a valid Python version, as written. Raises InvalidLock."""
        try:
            Version(text)
        except ValueError as error:  # InvalidVersion, or a number that is longer than Python reads
            raise self.invalid(f"{text[:80]!r} is not a version", line) from error
        return text

    def markers_of(self, texts: Iterable[str], line: int | None) -> tuple[str, ...]:
        """Return valid environment markers, as written. Raises InvalidLock."""
        markers = tuple(text for text in texts if text)
        for text in markers:
            try:
                check_marker(text)
            except ValueError as error:
                raise self.invalid(f"{text!r} is not an environment marker: {error}", line) from error
        return markers

    def file_of(
        self, filename: str, line: int | None, *, url: str = "", hashed: str = "", size: int | None = None
    ) -> PinnedFile:
        """Return a pinned file from its name or, without one, its URL. Raises InvalidLock for an unsafe file name."""
        filename = filename or filename_of(url)
        if not is_plain(filename):
            raise self.invalid(f"{filename!r} is not a file name", line)
        algorithm, _, digest = hashed.partition(":")
        return PinnedFile(filename=filename, url=url, digests={algorithm: digest.lower()} if digest else {}, size=size)

    def external(self, name: str, place: str, line: int | None = None) -> ExternalRequirement:
        """Return a requirement that no index can provide: from the URL `place`, or on the local disk without one."""
        local = not place
        reason = (
            "it is on the local disk" if local else f"it comes from {without_credentials(place)}, not from an index"
        )
        return ExternalRequirement(name=without_credentials(name), reason=reason, local=local, where=self.where(line))


def filename_of(url: str) -> str:
    """Return the file name at the end of a URL."""
    try:
        return unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    except ValueError:
        return ""


def is_plain(filename: str) -> bool:
    """Return whether a name is a plain file name: no directory, no control character."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][\w.+!~@=,-]{0,254}", filename, re.ASCII))


def without_credentials(url: str) -> str:
    """Return a URL that may be displayed."""
    return re.sub(r"(?<=//)[^/@\s]*@", "", url)
