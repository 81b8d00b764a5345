"""Serials: pages of projects that are older than the list of names says (PyPI's X-PyPI-Last-Serial).

Clients such as bandersnatch compare the two, so a page with an older serial than the list has for it is asked for anew,
whatever its age.
"""

from collections.abc import Mapping

from mirror.catalog import Catalog, PageRow
from mirror.model import Names


class NewerSerials:
    """The projects of one source whose stored pages have older serials than its list of names."""

    def __init__(self, source: str, catalog: Catalog) -> None:
        self._source = source
        self._catalog = catalog
        self._newer: Mapping[str, int] = {}
        self._checked = 0.0  # when the list of names was last confirmed, in seconds since the epoch

    async def compare(self, names: Names, checked: float) -> None:
        """Compare all stored pages with a list of names that upstream confirmed at a moment."""
        stored = await self._catalog.pages.serials(self._source)
        self._newer = {
            name: newer
            for name, serial in stored.items()
            if (newer := names.serials.get(name)) is not None and serial < newer
        }
        self._checked = checked

    def set_newer(self, newer: Mapping[str, int], checked: float) -> None:
        """Take in what another process found when it compared them with a list that was confirmed at a moment."""
        self._newer, self._checked = newer, checked

    def exceeds(self, project: str, row: PageRow) -> bool:
        """Return whether the list of names, read after the page of a project, has a newer serial for it."""
        newer = self._newer.get(project)
        return newer is not None and row.serial is not None and row.serial < newer and row.stamp.checked < self._checked
