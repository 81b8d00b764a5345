"""Our database: every SQL statement of the product stands in this package.

One class for each concern (pages, files, feed, logs, counters), over the two-method seam of `database.py`. What is
recorded about cached content can always be made again; uploads have their records beside the files as well.
"""

from mirror.catalog.accounts import Accounts, Session, Token, User
from mirror.catalog.bundles import Bundles
from mirror.catalog.claims import Claims
from mirror.catalog.coordination import Counters, Cursor, Cursors, FencedDatabase, Lease, Leases
from mirror.catalog.database import Database
from mirror.catalog.eviction import EvictionOrder, SidecarNaming
from mirror.catalog.feed import CatalogHead, FeedTable, Position
from mirror.catalog.files import Files, HeldFile
from mirror.catalog.flights import FlightTable, NodeTable
from mirror.catalog.holdings import Browse, Contents, HeldProject, HeldThing
from mirror.catalog.logs import START, LogGrowth, LogPosition, Logs, SharedLog
from mirror.catalog.pages import PageRow, Pages
from mirror.catalog.retention import RemovalReport, RemovedFiles, SetMember, Sets
from mirror.catalog.sidecars import NoSidecars
from mirror.catalog.totals import CatalogTotals
from mirror.catalog.uploads import Upload, UploadRow, Uploads

__all__ = [
    "START",
    "Accounts",
    "Browse",
    "Bundles",
    "Catalog",
    "CatalogHead",
    "CatalogTotals",
    "Claims",
    "Contents",
    "Counters",
    "Cursor",
    "Cursors",
    "Database",
    "EvictionOrder",
    "FeedTable",
    "FencedDatabase",
    "Files",
    "FlightTable",
    "HeldFile",
    "HeldProject",
    "HeldThing",
    "Lease",
    "Leases",
    "LogGrowth",
    "LogPosition",
    "Logs",
    "NoSidecars",
    "NodeTable",
    "PageRow",
    "Pages",
    "Position",
    "RemovalReport",
    "RemovedFiles",
    "Session",
    "SetMember",
    "Sets",
    "SharedLog",
    "SidecarNaming",
    "Token",
    "Upload",
    "UploadRow",
    "Uploads",
    "User",
]


class Catalog:
    """All tables of one database."""

    def __init__(self, database: Database, lease: Lease | None = None) -> None:
        """`lease`: under which the database takes changes."""
        self.database = database
        self._lease = lease
        self.pages = Pages(database)
        self.claims = Claims(database)
        self.files = Files(database)
        self.eviction = EvictionOrder(database)
        self.feed = FeedTable(database)
        self.logs = Logs(database)
        self.counters = Counters(database)
        self.contents = Contents(database)
        self.cursors = Cursors(database)
        self.browse = Browse(database)
        self.bundles = Bundles(database)
        self.sets = Sets(database)
        self.removed = RemovedFiles(database)
        self.no_sidecars = NoSidecars(database)
        self.totals = CatalogTotals(database)
        self.uploads = Uploads(database)
        self.accounts = Accounts(database)
        self.leases = Leases(database)
        self.flights = FlightTable(database)
        self.nodes = NodeTable(database)

    def under(self, lease: Lease) -> "Catalog":
        """Return the same catalog for work under a lease: what it writes raises LostLease once another one has it."""
        return Catalog(FencedDatabase(self.database, lease), lease)

    async def check_lease(self) -> None:
        """Check, before something outside the database is changed, that the lease is still held. Raises LostLease."""
        if self._lease is not None:
            await self.database.write()

    async def close(self) -> None:
        """Finish what is being written, and close the database."""
        await self.database.close()
