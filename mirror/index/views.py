"""The views of a repository in memory, and the stamps of those for which memory has no room.

A view is large, and its stamp is small: pages that were made of a view go on being served by its stamp, which says
until when they are right, and what the sources have to be asked then. Responses that are replayed need even less: of a
stamp that is dropped, the validity lives on for as long as one of them has it.
"""

from weakref import WeakValueDictionary

from mirror.index.cache import BoundedCache, MemoryBudget, SingleFlight, Validity, Worth
from mirror.index.freshness import Freshness
from mirror.index.view import View, ViewStamp

STAMP_BYTES = 900
"""Bytes that the stamp of a view takes in memory (measured)."""

MANY_PROJECTS = 10_000
"""Projects that change at once, above which no view is kept."""


class ViewCache:
    """Views and stamps by project; the repository keeps them, here they go."""

    def __init__(self, memory: MemoryBudget) -> None:
        self.views: BoundedCache[str, View] = BoundedCache(memory, self._keep_stamp)
        self.stamps: BoundedCache[str, ViewStamp] = BoundedCache(memory, self._keep_validity, Worth.HIGH)
        """Stamps, of projects whose views are not in memory."""
        self.dropped: WeakValueDictionary[str, Validity] = WeakValueDictionary()
        """The validities of stamps that were dropped, while responses depend on them."""
        self.kept = (self.views, self.stamps, self.dropped)
        self.viewing: SingleFlight[tuple[str, Freshness], View] = SingleFlight(at_once=True)
        """The views that are being made, by project and freshness."""
        self.stamping: SingleFlight[tuple[str, Freshness], ViewStamp] = SingleFlight()
        """The stamps that are being renewed, by project and freshness."""

    def _keep_stamp(self, project: str, view: View) -> None:
        """Keep the stamp of a view that is dropped for want of room: what was made of it stays right for as long."""
        stamp = ViewStamp(**{field: getattr(view, field) for field in ViewStamp.__struct_fields__})
        self.stamps.put(project, stamp, STAMP_BYTES)

    def _keep_validity(self, project: str, stamp: ViewStamp) -> None:
        self.dropped[project] = stamp.validity

    def forget(self, project: str) -> None:
        """Drop a project, kept or being made, and let no response with it be valid any longer."""
        for freshness in Freshness:
            self.viewing.pop((project, freshness), None)
            self.stamping.pop((project, freshness), None)
        for known in (self.views.peek(project), self.stamps.peek(project)):
            if known is not None:
                known.validity.end()
        if (dropped := self.dropped.pop(project, None)) is not None:
            dropped.end()
        self.views.forget(project)
        self.stamps.forget(project)

    def forget_all(self) -> None:
        """Drop everything."""
        self.end_validities()
        self.views.clear()
        self.stamps.clear()

    def end_validities(self) -> None:
        """Let every view be made again, those that are being made as well; what turns out unchanged stays."""
        self.viewing.clear()
        self.stamping.clear()
        for view in self.views.values():
            view.value.validity.end()
        for stamp in self.stamps.values():
            stamp.value.validity.end()
        for validity in list(self.dropped.values()):
            validity.end()
        self.dropped.clear()

    async def close(self) -> None:
        """Stop what is being made."""
        await self.viewing.close()
        await self.stamping.close()
