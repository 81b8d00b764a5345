"""The pages of one repository that are not their upstream's: what each says of its gem, and when to look at it again.

Here is only the memory, persisted as a log of its own. What a page shows, and what follows from it for the published
log, is decided in `published`. After a restart each page is to be looked at: what it depends on may have changed.
"""

import math
from collections.abc import Callable

import msgspec

from mirror.catalog import Logs
from mirror.rubygems.log.versions_map import VersionsMap


class LocalEntry(msgspec.Struct, frozen=True):
    """What a page of ours says of a gem, where it is not its upstream's page."""

    versions: tuple[str, ...]
    """Without any, the gem is hidden here."""
    md5: str
    until: float = math.inf
    """When the page is to be looked at again, in seconds since the epoch."""

    @classmethod
    def as_in(cls, listing: VersionsMap, name: str) -> "LocalEntry":
        """The same as a list says of the gem."""
        return cls(listing.versions(name), listing.md5(name) or "")

    def says(self, other: "LocalEntry | None") -> bool:
        """Whether both say the same, for however long."""
        return other is not None and (self.versions, self.md5) == (other.versions, other.md5)


class LocalEntries:
    """What the pages of one repository say, where they are not their upstream's."""

    def __init__(self, logs: Logs, repository: str, sooner: Callable[[], None]) -> None:
        """`sooner` is called when a page is to be looked at before all others."""
        self.said: dict[str, LocalEntry] = {}
        """By the names of the gems; to be changed only here."""
        self.next_look = math.inf
        """The earliest `until` of them, in seconds since the epoch."""
        self._logs = logs
        self._log_name = f"own {repository}"
        self._sooner = sooner

    async def read(self) -> None:
        """Read what is persisted."""
        for line in (await self._logs.read(self._log_name)).splitlines():
            name, own = msgspec.json.decode(line, type=tuple[str, LocalEntry | None])
            if own is None:
                self.said.pop(name, None)
            else:
                self.said[name] = own
        self.look_at_all()

    async def say(self, name: str, own: LocalEntry | None) -> bool:
        """What a gem's page says from now on, None for what its upstream's says; whether that is news."""
        known = self.said.get(name)
        if own is None and known is None:
            return False
        if own is not None and own.says(known):
            self._remember(name, own)
            return False
        # Without the moment, which may be infinite (JSON has no word for it), and counts for nothing after a restart.
        kept = None if own is None else msgspec.structs.replace(own, until=0.0)
        await self._logs.append(self._log_name, msgspec.json.encode((name, kept)) + b"\n")
        if own is None:
            self.said.pop(name, None)
        else:
            self._remember(name, own)
        return True

    def look_at(self, name: str, when: float = 0.0) -> None:
        """Have a page looked at: now, or at a moment in seconds since the epoch. One that is not ours needs no look."""
        if own := self.said.get(name):
            self._remember(name, msgspec.structs.replace(own, until=when))

    def look_at_all(self) -> None:
        """Have every page looked at now."""
        for name, own in self.said.items():
            self.said[name] = msgspec.structs.replace(own, until=0.0)
        self.next_look = 0.0 if self.said else math.inf
        self._sooner()

    def take_due(self, now: float) -> list[str]:
        """The gems whose pages are to be looked at by now; the next look is the one at the others."""
        self.next_look = min((own.until for own in self.said.values() if own.until > now), default=math.inf)
        return [name for name, own in self.said.items() if own.until <= now]

    def _remember(self, name: str, own: LocalEntry) -> None:
        self.said[name] = own
        if own.until < self.next_look:
            self.next_look = own.until
            self._sooner()
