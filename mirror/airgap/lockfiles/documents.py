"""Hostile text into typed values: bounded, and every complaint with the file and the line.

Reads nothing itself. The surprise: TOML and JSON readers know the place of a syntax error but not that of a
wrong value, so the line of the latter is found again from the path in the error (`$.package[3].version`).
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from mirror.airgap.lockfiles.wanted import Outside, PinnedFile, check_marker
from mirror.errors import InvalidLock

T = TypeVar("T")

LIMIT = 32 << 20
"""The largest file that is read, in bytes."""


class Document:
    """The text of one file, with its name for complaints."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def invalid(self, reason: str, line: int | None = None) -> InvalidLock:
        """The error to raise."""
        return InvalidLock(self.name, line, reason)

    def line(self, pattern: str) -> int | None:
        """The line of the first match of a multi-line pattern, or None."""
        return next((line for _, line in self.lines(pattern)), None)

    def lines(self, pattern: str) -> Iterator[tuple[str, int]]:
        """All matches of a multi-line pattern, each with its line."""
        line, counted = 1, 0
        for match in re.finditer(pattern, self.text, re.MULTILINE):
            line += self.text.count("\n", counted, match.start())
            counted = match.start()
            yield match[0], line

    def tables(self, name: str) -> Iterator[int | None]:
        """The lines of the headings of an array of tables, one after the other, then None for ever."""
        yield from (line for _, line in self.lines(rf"^\[\[{name}\]\]"))
        while True:
            yield None

    def where(self, line: int | None) -> str:
        """The place of something, for reports."""
        return self.name if line is None else f"{self.name}:{line}"

    def toml(self) -> dict[str, Any]:
        """Raises InvalidLock when the text is no TOML."""
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            reason, _, place = str(error).partition(" (at ")
            found = re.match(r"line (\d+)", place)
            last = self.text.rstrip().count("\n") + 1  # without a place, the end came too soon
            raise self.invalid(f"it is not TOML: {reason}", int(found[1]) if found else last) from error
        except RecursionError as error:
            raise self.invalid("it is nested too deeply") from error

    def convert(self, value: object, shape: type[T]) -> T:
        """`value` as a `shape`. Raises InvalidLock with the line where that can be told."""
        try:
            return msgspec.convert(value, shape)
        except msgspec.ValidationError as error:
            raise self.wrong_value(str(error)) from error

    def json(self, shape: type[T]) -> T:
        """Raises InvalidLock when the text is no JSON of that shape."""
        try:
            return msgspec.json.decode(self.text, type=shape)
        except msgspec.ValidationError as error:
            raise self.wrong_value(str(error)) from error
        except (msgspec.DecodeError, RecursionError) as error:
            found = re.search(r"\(byte (\d+)\)", str(error))
            before = self.text.rstrip().encode()[: int(found[1]) if found else None]  # without a place it ends too soon
            raise self.invalid(f"it is not JSON: {error}", before.count(b"\n") + 1) from error

    def wrong_value(self, message: str) -> InvalidLock:
        """The error for a message that names its place as `package[3].…`."""
        found = re.search(r"\b(packages?)\[(\d+)\]", message)
        line = next(islice(self.tables(found[1]), int(found[2]), None)) if found else None
        return self.invalid(message, line)

    def name_of(self, text: str, line: int | None) -> str:
        """A Python project's canonical name. Raises InvalidLock."""
        try:
            return canonicalize_name(text, validate=True)
        except InvalidName as error:
            raise self.invalid(f"{text!r} is no project name", line) from error

    def version_of(self, text: str, line: int | None) -> str:
        """A Python version, as written. Raises InvalidLock."""
        try:
            Version(text)
        except InvalidVersion as error:
            raise self.invalid(f"{text!r} is no version", line) from error
        return text

    def markers_of(self, texts: Iterable[str], line: int | None) -> tuple[str, ...]:
        """Environment markers, as written. Raises InvalidLock."""
        markers = tuple(text for text in texts if text)
        for text in markers:
            try:
                check_marker(text)
            except ValueError as error:
                raise self.invalid(f"{text!r} is no environment marker: {error}", line) from error
        return markers

    def file_of(
        self, filename: str, line: int | None, *, url: str = "", hashed: str = "", size: int | None = None
    ) -> PinnedFile:
        """A pinned file from its name or, without one, its URL. Raises InvalidLock when that is no plain file name."""
        filename = filename or filename_of(url)
        if not is_plain(filename):
            raise self.invalid(f"{filename!r} is no file name", line)
        algorithm, _, digest = hashed.partition(":")
        return PinnedFile(filename=filename, url=url, digests={algorithm: digest.lower()} if digest else {}, size=size)

    def outside(self, name: str, place: str, line: int | None = None) -> Outside:
        """What no index can give: at `place`, a URL, or on the local disk when there is none."""
        local = not place
        reason = (
            "it lies on the local disk" if local else f"it comes from {without_credentials(place)}, not from an index"
        )
        return Outside(name=without_credentials(name), reason=reason, local=local, where=self.where(line))


def filename_of(url: str) -> str:
    """The file name at the end of a URL."""
    try:
        return unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    except ValueError:
        return ""


def is_plain(filename: str) -> bool:
    """Whether a name can only be that of a file: no directory, no control character."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][\w.+!~@=,-]{0,254}", filename, re.ASCII))


def without_credentials(url: str) -> str:
    """A URL that can be shown."""
    return re.sub(r"(?<=//)[^/@\s]*@", "", url)
