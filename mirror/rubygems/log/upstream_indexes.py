"""What the upstreams of one repository list, taken together: the first that lists a gem speaks of it.

Our own word counts over all of theirs, and of a private name they say nothing. When to ask them, and what the published
log makes of it, is not decided here.
"""

import asyncio
from collections.abc import Mapping, Sequence

from mirror.policy import matches
from mirror.rubygems.log.local_entries import LocalEntry
from mirror.rubygems.log.upstream_index import UpstreamIndex
from mirror.rubygems.log.versions_map import VersionsMap


class UpstreamIndexes:
    """The followed upstreams of one repository, in their order."""

    def __init__(self, followed: Sequence[UpstreamIndex], private: tuple[str, ...]) -> None:
        """`private`: patterns of names that no upstream has a say in."""
        self._followed = followed
        self._private = private

    def known(self) -> list[VersionsMap] | None:
        """What the upstreams list, in their order; None when nothing may be concluded from what is known.

        A later one never speaks where an earlier one is not known: it could list another's gem of the same name.
        """
        maps = [one.map for one in self._followed]
        while maps and maps[-1] is None:
            maps.pop()
        known = [one for one in maps if one is not None]
        return None if len(known) < len(maps) or (self._followed and not known) else known

    def wanted(self, maps: Sequence[VersionsMap], own: Mapping[str, LocalEntry]) -> VersionsMap:
        """What the log should say: the first source that lists a gem, and our own word over all of them.

        `maps` is what is `known`, or the same part of each. May take long: works in a thread.
        """
        if len(maps) == 1 and not own and not self._private:
            return maps[0]
        wanted = maps[0].copy() if maps else VersionsMap()
        for other in maps[1:]:
            for name in other:
                if name not in wanted:
                    wanted.set(name, other.versions(name), other.md5(name))
        if self._private:
            for name in [name for name in wanted if matches(self._private, name)]:
                wanted.remove(name)
        for name, said in own.items():
            if said.versions:
                wanted.set(name, said.versions, said.md5)
            else:
                wanted.remove(name)
        return wanted

    def say(self, name: str) -> LocalEntry | None:
        """What the first upstream that lists a gem lists."""
        if matches(self._private, name):
            return None
        first = next((one.map for one in self._followed if one.map is not None and name in one.map), None)
        return None if first is None else LocalEntry.as_in(first, name)

    async def share(self, log: VersionsMap) -> None:
        """Let the upstreams' maps be made of the log's names and entries, as far as they are equal."""
        for one in self._followed:
            known = one.map
            if known is not None:
                shared = await asyncio.to_thread(known.sharing, log)
                if one.map is known:
                    one.map = shared
