"""What the upstreams of a repository list together, and what a log should list because of that."""

from collections.abc import Mapping, Sequence

import msgspec

from mirror.rubygems.log.local_entries import LocalEntry
from mirror.rubygems.log.name_owners import NameOwners
from mirror.rubygems.log.versions_map import VersionsMap


class UpstreamMaps(msgspec.Struct, frozen=True):
    """The listings of the upstreams of one repository at one moment, in order.

    The first that lists a gem counts, or ever listed it: no other upstream takes over the name of a gem that is gone,
    except where the files of all are shown together.
    """

    maps: tuple[VersionsMap | None, ...]
    """None for an upstream whose list was never fetched."""
    owners: NameOwners

    def replace(self, upstream: int, listed: VersionsMap) -> "UpstreamMaps":
        """Return the listings with another one of one upstream, given its place."""
        return UpstreamMaps((*self.maps[:upstream], listed, *self.maps[upstream + 1 :]), self.owners)

    def usable(self) -> list[VersionsMap] | None:
        """Return the maps from which something follows, in their order; None when nothing does.

        A later upstream does not count where an earlier one is unknown: that could list another gem of the same name.
        """
        maps = list(self.maps)
        while maps and maps[-1] is None:
            maps.pop()
        known = [one for one in maps if one is not None]
        return None if len(known) < len(maps) or (self.maps and not known) else known

    def entry(self, name: str) -> LocalEntry | None:
        """Return how the first upstream that lists a gem lists it."""
        if self.owners.is_private(name):
            return None
        having = [one for one in self.maps if one is not None and one.knows(name)]
        if self.owners.passes_on(name):
            having = [one for one in having if name in one]
        return LocalEntry.from_map(having[0], name) if having and name in having[0] else None


def wanted_map(maps: Sequence[VersionsMap], owners: NameOwners, overrides: Mapping[str, LocalEntry]) -> VersionsMap:
    """Return what a log should list: the first upstream that knows a gem, and the overrides before all of them.

    `maps` are those that are usable, or the same part of each. Blocking for large maps.
    """
    if len(maps) == 1 and not overrides and not owners.precedence.private:
        return maps[0]
    wanted = VersionsMap()
    for one in maps:
        wanted.add_unknown(one)
        if owners.precedence.union or owners.released:
            wanted.forget_empty(owners.passes_on)
    if owners.precedence.private:
        for name in [name for name in wanted if owners.is_private(name)]:
            wanted.remove(name)
    for name, entry in overrides.items():
        if entry.versions:
            wanted.set(name, entry.versions, entry.md5)
        else:
            wanted.remove(name)
    return wanted
