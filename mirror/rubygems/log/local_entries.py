"""The gems that the published log lists otherwise than their upstream does, persisted as a log of their own.

An upload, a policy that hides versions and a merged page make a gem's `/info` differ from its upstream's, and with it
the line in `/versions`. This module remembers those lines and when to check each page again; what a page shows, and
what follows for the published log, is decided elsewhere. After a restart every page is due: what it depends on may have
changed meanwhile.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from mirror.catalog import Logs, SharedLog
from mirror.index.cache import Validity
from mirror.rubygems.log.events import PageChange
from mirror.rubygems.log.versions_map import LocalEntry

MOST_CHUNKS = 2000
"""Changes after which what is stored is written anew in one piece."""
RECHECK_SECONDS = 60.0
"""After which the page of a gem is checked here that another process has listed otherwise than upstream does."""


class LocalEntries:
    """The local entries of one repository. Only the writer of the log calls `read`, `read_on` and `store`."""

    def __init__(
        self, logs: Logs, repository: str, on_sooner: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        """`on_sooner` is called when a page becomes due before all others."""
        self.entries: dict[str, LocalEntry] = {}
        """By the names of the gems; changed only here."""
        self.next_due = math.inf
        """When the next page is due, in seconds since the epoch."""
        self.due: dict[str, float] = {}
        """When to check the page of each gem that has an entry, or will have one once the writer has stored it."""
        self.known = Validity(math.inf)
        """Ends as entries of other processes are read: what was decided before may be outdated."""
        self.on_read: Callable[[Collection[str]], None] = lambda names: None
        """Called with the gems of which another process has listed another page."""
        self._stored = SharedLog(logs, f"own {repository}")
        self._on_sooner = on_sooner
        self._clock = clock

    async def read(self) -> None:
        """Read the stored entries."""
        await self._read_on()
        self.due = dict.fromkeys([*self.due, *self.entries], 0.0)
        self.mark_all_due()

    async def read_on(self) -> set[str]:
        """Read the entries that other processes have stored; return the names of the gems that they are about."""
        names = await self._read_on()
        if names:
            self.on_read(names)
        for name in names & self.entries.keys() - self.due.keys():
            self.schedule(name, self._clock() + RECHECK_SECONDS)
        return names

    async def _read_on(self) -> set[str]:
        growth = await self._stored.growth()
        if growth.anew and not growth.content and self.entries:  # the catalog has been lost
            self._stored.position = growth.position
            await self._stored.replace(b"".join(_line(*entry) for entry in self.entries.items()))
            growth = await self._stored.growth()
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
        self._stored.position = growth.position
        if growth.anew:
            both = before.keys() | self.entries.keys()
            names = {name for name in both if before.get(name) != self.entries.get(name)}
        if names:
            self.known.end()
            self.known = Validity(math.inf)
        return names

    async def store(self, pages: Mapping[str, PageChange], listed: Callable[[str], LocalEntry | None]) -> set[str]:
        """Store how pages are listed; return the names of the gems that are listed otherwise from now on.

        `listed` returns how upstream lists a gem. A page that has changed meanwhile is checked again instead.
        """
        names = set[str]()
        while True:
            entries = {}
            for name, change in pages.items():
                if change.of is None or change.of.live:
                    entries[name] = _if_different(change.entry, listed(name))
                else:
                    self.schedule(name, 0.0)
            changed = await self._put(entries)
            if changed is not None:
                return names | changed
            names |= await self.read_on()

    async def _put(self, entries: Mapping[str, LocalEntry | None]) -> set[str] | None:
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
            if not await self._stored.append(lines, MOST_CHUNKS):
                return None
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


def _if_different(entry: LocalEntry | None, listed: LocalEntry | None) -> LocalEntry | None:
    """Return the entry of a page, or None where it lists for ever what upstream lists."""
    return None if entry is not None and entry.until == math.inf and entry.lists_same(listed) else entry


def _line(name: str, entry: LocalEntry | None) -> bytes:
    # Without the moment: it may be infinite, for which JSON has no number, and means nothing after a restart.
    stored = None if entry is None else msgspec.structs.replace(entry, until=0.0)
    return msgspec.json.encode((name, stored)) + b"\n"
