"""What OSV records say about versions: a bounded reader of a folder, and the pure question whether one is affected.

The folder is the operator's copy of a record collection, one JSON file each, at any depth; we never fetch one. The
records were still written by many hands: what does not parse or is too large is left out and counted in `skipped`.
Only what a decision needs is kept in memory. Not read: ranges of commits (`GIT`), and the `limit` event.
See the OSV schema, version 1.7.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec

from mirror.errors import ConfigError, Invalid

Severity = Literal["unknown", "low", "medium", "high", "critical"]
Key = Callable[[str], tuple[object, ...]]

LARGEST_RECORD = 8 << 20
MOST_RECORDS = 500_000
MOST_BYTES = 2 << 30
DEEPEST_FOLDER = 8
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_SEVERITIES: dict[str, Severity] = {
    "LOW": "low",
    "MODERATE": "medium",
    "MEDIUM": "medium",
    "HIGH": "high",
    "CRITICAL": "critical",
}


class Edge(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of a range: exactly one of its fields is set."""

    introduced: str | None = None
    fixed: str | None = None
    last_affected: str | None = None


class Advisory(msgspec.Struct, frozen=True, kw_only=True):
    """What one record says about one project."""

    id: str
    aliases: tuple[str, ...] = ()
    severity: Severity = "unknown"
    versions: tuple[str, ...] = ()
    ranges: tuple[tuple[Edge, ...], ...] = ()

    def affects(self, version: str, key: Key) -> bool:
        """Whether the version is affected; `key` orders versions. A record without any version means all of them."""
        if not self.versions and not self.ranges:
            return True
        if version in self.versions:
            return True
        place = key(version)
        return any(key(one) == place for one in self.versions) or any(
            _within(edges, place, key) for edges in self.ranges
        )


def _within(edges: tuple[Edge, ...], place: tuple[object, ...], key: Key) -> bool:
    """OSV schema, "Evaluation": walk the events in the order of their versions; the last that counts decides."""

    def at(edge: Edge) -> tuple[object, ...]:
        # "0" stands before every version, also before 0.dev0
        version = edge.introduced or edge.fixed or edge.last_affected or ""
        return () if edge.introduced == "0" else key(version)

    def order(edge: Edge) -> tuple[tuple[object, ...], int]:
        # at one and the same version: what ends before it, what begins with it, what ends after it
        return at(edge), 0 if edge.fixed is not None else 1 if edge.introduced is not None else 2

    affected = False
    for edge in sorted(edges, key=order):
        if edge.introduced is not None:
            affected = affected or place >= at(edge)
        elif edge.fixed is not None:
            affected = affected and place < at(edge)
        else:
            affected = affected and place <= at(edge)
    return affected


class OsvIndex(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one folder."""

    digest: str = ""
    """Of the content of all records; the same on every node that has the same records."""
    stamp: str = ""
    """What `stamp` said before they were read."""
    projects: Mapping[tuple[str, str], tuple[Advisory, ...]] = {}
    """(ecosystem, canonical name) → what is known about it."""
    skipped: int = 0
    """Files that are no records, or are not to be understood."""

    def about(self, ecosystem: str, project: str) -> tuple[Advisory, ...]:
        return self.projects.get((ecosystem, project), ())


class _Package(msgspec.Struct):
    name: str = ""
    ecosystem: str = ""


class _Range(msgspec.Struct):
    type: str = ""
    events: tuple[Edge, ...] = ()


class _Score(msgspec.Struct):
    score: str = ""


class _Graded(msgspec.Struct):
    severity: str | None = None


class _Affected(msgspec.Struct):
    package: _Package | None = None
    versions: tuple[str, ...] | None = None
    ranges: tuple[_Range, ...] | None = None
    severity: tuple[_Score, ...] | None = None


class _Record(msgspec.Struct):
    id: str
    aliases: tuple[str, ...] | None = None
    withdrawn: str | None = None
    affected: tuple[_Affected, ...] | None = None
    severity: tuple[_Score, ...] | None = None
    database_specific: msgspec.Raw = msgspec.Raw()


def stamp(folder: Path) -> str:
    """Changes when a record is added, removed or rewritten; stats every file. Blocking. Raises ConfigError."""
    seen = sha256()
    for path, status in sorted(_records(str(folder))):
        seen.update(f"{path.removeprefix(str(folder))}\0{status[0]}\0{status[1]}\n".encode("utf-8", "surrogateescape"))
    return seen.hexdigest()


def load(folder: Path, canonical: Mapping[str, Callable[[str], str]]) -> OsvIndex:
    """Read all records below the folder. Blocking: call it in a thread.

    `canonical` maps each ecosystem that counts to its form of a project name; records of others are left out.
    Raises ConfigError when there is no such folder, or when it holds more than we would keep in memory.
    """
    before, skipped, total = stamp(folder), 0, 0
    digests: list[bytes] = []
    found: dict[tuple[str, str], list[Advisory]] = {}
    for path, (_, size) in sorted(_records(str(folder))):
        try:
            if size > LARGEST_RECORD:
                raise Invalid("larger than any record")
            with open(path, "rb") as stream:
                content = stream.read(LARGEST_RECORD)
            advisories = list(read(content, canonical))
        except (OSError, Invalid):
            skipped += 1
            continue
        total += len(content)
        if total > MOST_BYTES:
            raise ConfigError(f"The OSV folder {folder.name!r} holds more than {MOST_BYTES} bytes of records.")
        for project, advisory in advisories:
            found.setdefault(project, []).append(advisory)
        if advisories:
            digests.append(sha256(content).digest())
    return OsvIndex(
        digest=sha256(b"".join(sorted(digests))).hexdigest(),
        stamp=before,
        projects={project: tuple(advisories) for project, advisories in found.items()},
        skipped=skipped,
    )


def read(content: bytes, canonical: Mapping[str, Callable[[str], str]]) -> Iterator[tuple[tuple[str, str], Advisory]]:
    """What one record says, by (ecosystem, canonical name). A withdrawn one says nothing. Raises Invalid."""
    try:
        record = msgspec.json.decode(content, type=_Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"This is no OSV record: {error}.") from None
    if not _ID.fullmatch(record.id):
        raise Invalid("This OSV record has no usable id.")
    if record.withdrawn:
        return
    aliases = tuple(alias for alias in record.aliases or () if _ID.fullmatch(alias))
    for affected in record.affected or ():
        # "PyPI" or, with a suffix that names a part of it, "PyPI:…"
        ecosystem = affected.package.ecosystem.partition(":")[0] if affected.package else ""
        if affected.package is None or ecosystem not in canonical:
            continue
        try:
            name = canonical[ecosystem](affected.package.name)
        except Invalid:
            continue
        ranges = tuple(one.events for one in affected.ranges or () if one.type != "GIT")
        if affected.ranges and not ranges and not affected.versions:
            continue  # only commits are named, not a single version
        yield (
            (ecosystem, name),
            Advisory(
                id=record.id,
                aliases=aliases,
                severity=_severity(record, affected),
                versions=affected.versions or (),
                ranges=ranges,
            ),
        )


def _severity(record: _Record, affected: _Affected) -> Severity:
    """The database's own word, where it has one, else what the CVSS vectors come to; the highest of several."""
    try:
        graded = (
            msgspec.json.decode(record.database_specific, type=_Graded).severity if record.database_specific else None
        )
    except msgspec.DecodeError:
        graded = None
    if graded and (word := _SEVERITIES.get(graded.upper())):
        return word
    found = [_rating(one.score) for one in (*(affected.severity or ()), *(record.severity or ()))]
    return max(found, key=("unknown", "low", "medium", "high", "critical").index, default="unknown")


@lru_cache(maxsize=4096)  # a collection has many records and few vectors
def _rating(vector: str) -> Severity:
    """CVSS v3 and v4, "Qualitative Severity Rating Scale"."""
    from cvss import CVSS3, CVSS4, CVSSError  # large tables, needed only while records are read

    word: str
    try:
        if vector.startswith("CVSS:3") and len(vector) < 300:
            word = CVSS3(vector).severities()[0]
        elif vector.startswith("CVSS:4") and len(vector) < 300:
            word = CVSS4(vector).severity
        else:
            return "unknown"
    except (CVSSError, ValueError, KeyError, IndexError, ArithmeticError):
        return "unknown"
    return _SEVERITIES.get(word.upper(), "unknown")


def _records(folder: str, depth: int = 0) -> list[tuple[str, tuple[int, int]]]:
    """Every JSON file below the folder, with (modified in ns, bytes); links are not followed out of it."""
    found: list[tuple[str, tuple[int, int]]] = []
    try:
        entries = list(os.scandir(folder))
    except OSError:
        if depth == 0:
            raise ConfigError(f"There is no readable folder of OSV records at {folder!r}.") from None
        return found
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False) and depth < DEEPEST_FOLDER:
                found += _records(entry.path, depth + 1)
            elif entry.name.endswith(".json") and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                found.append((entry.path, (status.st_mtime_ns, status.st_size)))
        except OSError:
            continue  # gone while we looked
    if len(found) > MOST_RECORDS:
        raise ConfigError(f"The OSV folder {folder!r} holds more than {MOST_RECORDS} records.")
    return found
