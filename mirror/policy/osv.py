"""What OSV records report about versions: one record parsed, and whether a version is affected. Pure.

Only what a decision needs is kept in memory. Ranges of commits (`GIT`) and the event `limit` are not read. See the OSV
schema, version 1.7.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import msgspec

from mirror.errors import Invalid
from mirror.model import Severity

SortKey = Callable[[str], tuple[object, ...]]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_SEVERITIES: dict[str, Severity] = {
    "LOW": "low",
    "MODERATE": "medium",
    "MEDIUM": "medium",
    "HIGH": "high",
    "CRITICAL": "critical",
}


class RangeEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of a range: exactly one of its fields is set."""

    introduced: str | None = None
    fixed: str | None = None
    last_affected: str | None = None


class Advisory(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one record that is about one project."""

    id: str
    aliases: tuple[str, ...] = ()
    severity: Severity = "unknown"
    versions: tuple[str, ...] = ()
    ranges: tuple[tuple[RangeEvent, ...], ...] = ()

    def affects(self, version: str, key: SortKey) -> bool:
        """Return whether the version is affected; `key` orders versions. A record without versions affects all."""
        if not self.versions and not self.ranges:
            return True
        if version in self.versions:
            return True
        wanted = key(version)
        return any(key(one) == wanted for one in self.versions) or any(
            _is_affected(events, wanted, key) for events in self.ranges
        )


def _is_affected(events: tuple[RangeEvent, ...], wanted: tuple[object, ...], key: SortKey) -> bool:
    """Apply the events in the order of their versions; the last one decides (OSV schema, "Evaluation")."""

    def version(event: RangeEvent) -> tuple[object, ...]:
        # "0" stands before every version, also before 0.dev0
        text = event.introduced or event.fixed or event.last_affected or ""
        return () if event.introduced == "0" else key(text)

    def order(event: RangeEvent) -> tuple[tuple[object, ...], int]:
        # at one version: a range that ends before it, one that begins with it, one that ends after it
        return version(event), 0 if event.fixed is not None else 1 if event.introduced is not None else 2

    affected = False
    for event in sorted(events, key=order):
        if event.introduced is not None:
            affected = affected or wanted >= version(event)
        elif event.fixed is not None:
            affected = affected and wanted < version(event)
        else:
            affected = affected and wanted <= version(event)
    return affected


class OsvIndex(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one folder."""

    digest: str = ""
    """The digest of all records; equal on every node that has the same records."""
    stamp: str = ""
    """The `records.stamp` of the folder before they were read."""
    projects: Mapping[tuple[str, str], tuple[Advisory, ...]] = {}
    """(ecosystem, canonical name) → its advisories."""
    records: int = 0
    """The number of records that are about any project here."""
    skipped: int = 0
    """The number of files that are not records, or cannot be read."""

    def about(self, ecosystem: str, project: str) -> tuple[Advisory, ...]:
        """Return the advisories about a project, by its canonical name."""
        return self.projects.get((ecosystem, project), ())


class _Package(msgspec.Struct):
    name: str = ""
    ecosystem: str = ""


class _Range(msgspec.Struct):
    type: str = ""
    events: tuple[RangeEvent, ...] = ()


class _Score(msgspec.Struct):
    score: str = ""


class _DatabaseSeverity(msgspec.Struct):
    severity: str | None = None


class _AffectedPackage(msgspec.Struct):
    package: _Package | None = None
    versions: tuple[str, ...] | None = None
    ranges: tuple[_Range, ...] | None = None
    severity: tuple[_Score, ...] | None = None


class _Record(msgspec.Struct):
    id: str
    aliases: tuple[str, ...] | None = None
    withdrawn: str | None = None
    affected: tuple[_AffectedPackage, ...] | None = None
    severity: tuple[_Score, ...] | None = None
    database_specific: msgspec.Raw = msgspec.Raw()


def read_record(
    content: bytes, canonical: Mapping[str, Callable[[str], str]]
) -> Iterator[tuple[tuple[str, str], Advisory]]:
    """Yield what one record reports, by (ecosystem, canonical name); nothing for a withdrawn one. Raises Invalid."""
    try:
        record = msgspec.json.decode(content, type=_Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"This is not an OSV record: {error}.") from None
    if not _ID.fullmatch(record.id):
        raise Invalid("This OSV record has no usable id.")
    if record.withdrawn:
        return
    aliases = tuple(alias for alias in record.aliases or () if _ID.fullmatch(alias))
    for affected in record.affected or ():
        # "PyPI", or with a suffix for a part of it "PyPI:…"
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


def _severity(record: _Record, affected: _AffectedPackage) -> Severity:
    """Return the severity that the database states, else the highest of the CVSS vectors."""
    try:
        raw = record.database_specific
        rating = msgspec.json.decode(raw, type=_DatabaseSeverity).severity if raw else None
    except msgspec.DecodeError:
        rating = None
    if rating and (known := _SEVERITIES.get(rating.upper())):
        return known
    found = [_rating(one.score) for one in (*(affected.severity or ()), *(record.severity or ()))]
    return max(found, key=("unknown", "low", "medium", "high", "critical").index, default="unknown")


@lru_cache(maxsize=4096)  # a collection has many records and few vectors
def _rating(vector: str) -> Severity:
    """Return the severity of a vector (CVSS v3 and v4, "Qualitative Severity Rating Scale")."""
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
