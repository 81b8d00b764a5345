"""The gems that the published log lists otherwise than their upstream does, persisted as a log of their own.

An upload, a policy that hides versions and a merged page make a gem's `/info` differ from its upstream's, and with it
the line in `/versions`. This module remembers those lines and when to check each page again; what a page shows, and
what follows for the published log, is decided elsewhere. After a restart every page is due: what it depends on may have
changed meanwhile.
"""

import math
from collections.abc import Callable, Mapping

import msgspec

from mirror.catalog import START, Logs
from mirror.index.cache import Validity
from mirror.rubygems.log.versions_map import VersionsMap


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


class LocalEntries:
    """The local entries of one repository. Only the writer of the log calls `read` and `put`."""

    def __init__(self, logs: Logs, repository: str, on_sooner: Callable[[], None]) -> None:
        """`on_sooner` is called when a page becomes due before all others."""
        self.entries: dict[str, LocalEntry] = {}
        """By the names of the gems; changed only here."""
        self.next_due = math.inf
        """When the next page is due, in seconds since the epoch."""
        self.due: dict[str, float] = {}
        """When to check the page of each gem that has an entry, or will have one once the writer has stored it."""
        self.known = Validity(math.inf)
        """Ends as entries of other processes are read: what was decided before may be outdated."""
        self._position = START
        self._logs = logs
        self._log_name = f"own {repository}"
        self._on_sooner = on_sooner

    async def read(self) -> None:
        """Read the stored entries."""
        await self.read_on()
        self.due = dict.fromkeys([*self.due, *self.entries], 0.0)
        self.mark_all_due()

    async def read_on(self) -> set[str]:
        """Read the entries that other processes have stored; return the names of the gems that they are about."""
        growth = await self._logs.read_on(self._log_name, self._position)
        if growth.anew and not growth.content and self.entries:  # the catalog has been lost
            await self._logs.append(
                self._log_name, b"".join(_line(*entry) for entry in self.entries.items()), growth.position
            )
            growth = await self._logs.read_on(self._log_name, growth.position)
        before = dict(self.entries) if growth.anew else {}
        if growth.anew:
            self.entries.clear()
        names = set[str]()
        for line in growth.content.splitlines():
            name, entry = msgspec.json.decode(line, type=tuple[str, LocalEntry | None])
            names.add(name)
            if entry is None:
                self.entries.pop(name, None)
            else:
                self.entries[name] = entry
        self._position = growth.position
        if growth.anew:
            both = before.keys() | self.entries.keys()
            names = {name for name in both if before.get(name) != self.entries.get(name)}
        if names:
            self.known.end()
            self.known = Validity(math.inf)
        return names

    async def put(self, entries: Mapping[str, LocalEntry | None]) -> set[str] | None:
        """Store entries, None to remove one; return the names of the gems that are listed otherwise from now on.

        Return None where another process has stored entries that have not been read here; then nothing is stored.
        """
        changed: dict[str, LocalEntry | None] = {}
        for name, entry in entries.items():
            known = self.entries.get(name)
            if (entry is None and known is not None) or (entry is not None and not entry.lists_same(known)):
                changed[name] = entry
        if changed:
            lines = b"".join(_line(name, entry) for name, entry in changed.items())
            position = await self._logs.append(self._log_name, lines, self._position)
            if position is None:
                return None
            self._position = position
        for name, entry in entries.items():
            if entry is None:
                self.entries.pop(name, None)
                self.due.pop(name, None)
            else:
                self.due.setdefault(name, entry.until)
                if name in changed:
                    self.entries[name] = entry
        return set(changed)

    # When to check pages again

    def schedule(self, name: str, until: float) -> None:
        """Have a page checked at a moment, in seconds since the epoch, whether or not it has an entry yet."""
        self.due[name] = until
        if until < self.next_due:
            self.next_due = until
            self._on_sooner()

    def mark_due(self, name: str, when: float = 0.0) -> None:
        """Have a page checked now, or at a moment, if its check is scheduled at all."""
        if name in self.due:
            self.schedule(name, when)

    def mark_all_due(self) -> None:
        """Have every page checked now."""
        self.due = dict.fromkeys(self.due, 0.0)
        self.next_due = 0.0 if self.due else math.inf
        self._on_sooner()

    def take_due(self, now: float) -> list[str]:
        """Return the gems whose pages are due by now. They stay due, but `next_due` does not count them any more."""
        self.next_due = min((due for due in self.due.values() if due > now), default=math.inf)
        return [name for name, due in self.due.items() if due <= now]


def _line(name: str, entry: LocalEntry | None) -> bytes:
    # Without the moment: it may be infinite, for which JSON has no number, and means nothing after a restart.
    stored = None if entry is None else msgspec.structs.replace(entry, until=0.0)
    return msgspec.json.encode((name, stored)) + b"\n"
