"""What `/versions` lists: gem → its versions and the MD5 of its info page; parsed, rendered and compared.

The surprise: a gem that lost all its versions stays in the map, with an MD5 and nothing else, since clients that once
saw it keep requesting its `/info`.
"""

import hashlib
import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from mirror.model import Project
from mirror.rubygems.pages import EMPTY

EMPTY_MD5 = hashlib.md5(EMPTY, usedforsecurity=False).hexdigest()
"""The MD5 of the `/info` of a gem without versions."""
_UNKNOWN = b"0" * 32  # for an unknown MD5: some clients fail on a line without one
LONGEST_NAME_BYTES = 200
LONGEST_DIGEST_BYTES = 64
"""Bytes of the MD5 of a page; others are taken for unknown."""
MOST_LINES = 1_000_000
"""The most lines of an upstream's log; the public one has 200,000."""
MOST_LISTED = 6_000_000
"""The most versions that they list together; the public one has two million."""
_NOTHING = b" " + EMPTY_MD5.encode()


class VersionsMap:
    """Gem name → its versions (`3.0`, `1.17.2-java`) and the MD5 of its `/info`.

    190,000 gems have to fit: each takes one bytes object, `V,V-PLATFORM MD5`, which copies of the map share.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: dict[str, bytes] | None = None) -> None:
        self._entries = {} if entries is None else entries

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        """Return whether the gem has any version."""
        return not self._entries.get(name, b" ").startswith(b" ")  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the gems that have versions, in the order of the log."""
        return (name for name, entry in self._entries.items() if not entry.startswith(b" "))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionsMap) and not diff(self, other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def size(self) -> int:
        """The bytes of the shortest log that lists the same, without its header."""
        return sum(len(name) + len(entry) + 2 for name, entry in self._entries.items())

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a gem, each once; none when it is unknown."""
        entry = self._entries.get(name)
        return tuple(item.decode("utf-8", "surrogateescape") for item in _items(entry)) if entry else ()

    def md5(self, name: str) -> str | None:
        """Return the MD5 of the gem's `/info`, also of a gem that lost all versions; None when unknown."""
        entry = self._entries.get(name)
        md5 = None if entry is None else entry.rpartition(b" ")[2]
        return None if md5 is None or md5 == _UNKNOWN else md5.decode("utf-8", "surrogateescape")

    def lists_same(self, other: "VersionsMap") -> bool:
        """Return whether both list the same versions of the same gems, in whatever order. Blocking."""
        names = self._entries.keys() | other._entries.keys()
        return all(
            self._entries.get(name) == other._entries.get(name) or {*self.versions(name)} == {*other.versions(name)}
            for name in names
        )

    def set(self, name: str, versions: Iterable[str], md5: str | None) -> None:
        """Replace the versions and the MD5 of a gem."""
        listed = ",".join(dict.fromkeys(versions)).encode("utf-8", "surrogateescape")
        self._entries[name] = listed + b" " + (md5.encode() if md5 else _UNKNOWN)

    def remove(self, name: str) -> None:
        """Forget a gem, known or not."""
        self._entries.pop(name, None)

    def knows(self, name: str) -> bool:
        """Return whether the gem has, or ever had, any version."""
        return name in self._entries

    def known(self) -> Collection[str]:
        """Return the names of the gems that have, or ever had, any version."""
        return self._entries.keys()

    def keep_names(self, before: Iterable[str]) -> list[str]:
        """Go on knowing gems that this map lacks, without versions; return their names."""
        gone = [name for name in before if name not in self._entries]
        for name in gone:
            self._entries[name] = _NOTHING
        return gone

    def add_unknown(self, other: "VersionsMap") -> None:
        """Add what another map lists of the gems that this one does not know."""
        known = self._entries
        known.update({name: entry for name, entry in other._entries.items() if name not in known})

    def forget_empty(self, which: Callable[[str], bool]) -> None:
        """Forget those of the gems without versions for which `which` is true."""
        for name in [name for name, entry in self._entries.items() if entry.startswith(b" ") and which(name)]:
            del self._entries[name]

    def copy(self) -> "VersionsMap":
        """Return an independent map that shares the entries."""
        return VersionsMap(self._entries.copy())

    def only(self, names: Iterable[str]) -> "VersionsMap":
        """Return a map of some of the gems."""
        return VersionsMap({name: self._entries[name] for name in names if name in self._entries})

    def changed(self, before: "VersionsMap") -> frozenset[str]:
        """Return the gems that this map lists otherwise than an earlier one, or that only one of them has."""
        old, new = before._entries, self._entries
        return frozenset(name for name, entry in new.items() if old.get(name) != entry) | (old.keys() - new.keys())

    def sharing(self, other: "VersionsMap") -> "VersionsMap":
        """Return an equal map that shares names and entries with another, so that memory holds them once."""
        theirs = {name: (name, entry) for name, entry in other._entries.items()}
        shared = {}
        for name, entry in self._entries.items():
            known = theirs.get(name)
            shared[known[0] if known else name] = known[1] if known and known[1] == entry else entry
        return VersionsMap(shared)

    def grown(self, tail: bytes) -> "VersionsMap":
        """Return an independent map to which the lines of `tail` have been applied."""
        versions = self.copy()
        versions.apply(tail.split(b"\n"))
        return versions

    def has_all(self, project: Project) -> bool:
        """Return whether the page of a gem, which is in `extra`, has a line for each version that is listed."""
        body: bytes = project.extra.get("body", b"")
        lines = {line.partition(b" ")[0] for line in body.split(b"\n")}
        return all(version in lines for version in _items(self._entries.get(project.name, b" ")))

    def apply(self, lines: Iterable[bytes]) -> None:
        """Apply the lines of a log: the last MD5 counts, `-` removes, and what is no line of a gem is skipped."""
        entries = self._entries
        repeated: dict[str, tuple[dict[bytes, None], bytes]] = {}  # joined at the end: a gem may have many lines
        for line in lines:
            raw, _, rest = line.rstrip(b"\r\n").partition(b" ")
            versions, space, md5 = rest.partition(b" ")
            if not raw or not versions or len(raw) > LONGEST_NAME_BYTES:
                continue
            if not md5 or len(md5) > LONGEST_DIGEST_BYTES:
                space, md5 = b"", _UNKNOWN
            name = raw.decode("utf-8", "surrogateescape")
            known = entries.get(name)
            if known is None and versions[:1] != b"-" and b",-" not in versions:
                entries[name] = rest if space else versions + b" " + _UNKNOWN
                continue
            current, _ = repeated.get(name) or (dict.fromkeys(_items(known or b" ")), b"")
            for item in versions.split(b","):
                if item.startswith(b"-"):
                    current.pop(item[1:], None)
                elif item:
                    current[item] = None
            repeated[name] = current, md5
            entries.setdefault(name, b" ")
        for name, (current, md5) in repeated.items():
            entries[name] = b",".join(current) + b" " + md5


class LocalEntry(msgspec.Struct, frozen=True):
    """The entry of a gem in the published log."""

    versions: tuple[str, ...]
    """None at all: the gem is hidden here."""
    md5: str
    """Of its `/info`."""
    until: float = math.inf
    """When to check the page again, in seconds since the epoch."""

    @classmethod
    def from_map(cls, versions: VersionsMap, name: str) -> "LocalEntry":
        """Return how a map lists the gem."""
        return cls(versions.versions(name), versions.md5(name) or "")

    def lists_same(self, other: "LocalEntry | None") -> bool:
        """Return whether both list the same versions and MD5, whenever each is checked again."""
        return other is not None and (self.versions, self.md5) == (other.versions, other.md5)


HIDDEN = LocalEntry((), "")
"""The entry of a gem that no source may give: its name belongs to one that has it no longer."""


def _items(entry: bytes) -> list[bytes]:
    """Return the versions of an entry, each once, in order."""
    listed = entry.partition(b" ")[0]
    return list(dict.fromkeys(listed.split(b","))) if listed else []


def parse_versions(body: bytes) -> VersionsMap:
    """Return the map that a complete `/versions` describes. Blocking: a second for the public one. Never raises."""
    lines = io.BytesIO(body)  # line by line: splitting all at once blocks the interpreter, and takes twice the memory
    lines.seek(_header(body))
    versions = VersionsMap()
    versions.apply(lines)
    return versions


def excess(body: bytes) -> str | None:
    """Return which limit of things the lines of a log exceed, to be asked before they are parsed; None for none."""
    lines = body.count(b"\n")
    if lines > MOST_LINES:
        return f"it has more than {MOST_LINES:,} lines"
    return f"it lists more than {MOST_LISTED:,} versions" if lines + body.count(b",") > MOST_LISTED else None


def _header(body: bytes) -> int:
    """Return how many bytes precede the first line of a gem."""
    if body.startswith(b"---\n"):
        return 4
    mark = body.find(b"\n---\n")
    return mark + 5 if mark >= 0 else 0


def render_versions(versions: VersionsMap, created_at: datetime) -> bytes:
    """Return a complete log: a header and a line for each gem that has versions."""
    head = f"created_at: {created_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}\n---\n".encode()
    return head + b"".join(
        b"%b %b\n" % (name.encode("utf-8", "surrogateescape"), versions._entries[name]) for name in versions
    )


def diff(published: VersionsMap, wanted: VersionsMap) -> list[bytes]:
    """Return the fewest and shortest lines that turn one map into the other, for every client's parser."""
    before, after = published._entries, wanted._entries
    lines = [
        line
        for name, entry in after.items()
        if (old := before.get(name)) is not entry and old != entry and (line := _line(name, old or b" ", entry))
    ]
    lines += [
        line
        for name, entry in before.items()
        if name not in after and (line := _line(name, entry, _NOTHING)) is not None
    ]
    return lines


def names_in(lines: Iterable[bytes]) -> set[str]:
    """Return the gems that lines of a log are about."""
    return {line.partition(b" ")[0].decode("utf-8", "surrogateescape") for line in lines if line}


def _line(name: str, old: bytes, new: bytes) -> bytes | None:
    """Return the line that turns one entry of a gem into another; None when clients need none."""
    had, has = dict.fromkeys(_items(old)), dict.fromkeys(_items(new))
    changes = [b"-" + item for item in had if item not in has] + [item for item in has if item not in had]
    md5 = new.rpartition(b" ")[2]
    if not changes:
        if not has or md5 == old.rpartition(b" ")[2]:
            return None
        same = min(has, key=len)  # the MD5 alone changes: one version goes and comes back
        changes = [b"-" + same, same]
    return name.encode("utf-8", "surrogateescape") + b" " + b",".join(changes) + b" " + md5
