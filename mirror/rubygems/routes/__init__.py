"""URLs of one RubyGems repository: compact index, legacy index, gems, JSON.

whole     the index as a whole, made of the published log
gems      one gem: its page, its specifications, its files
told      what is told as JSON

Below `/at/DATE` there is the compact index once more, where `/info` shows what had been pushed by then. `/versions`
stays the one of today, as nobody can say what it was: clients see there that `/info` is another one than they know, ask
for it, and believe it. The legacy index, which says all of every gem at once, is not there.

The numbers in comments name the rules that real clients taught: what breaks which of them stands beside the line.
Pushing and yanking are in `upload.py`.
"""

from aiohttp import web

from mirror.auth import ReadAccess
from mirror.index.repository import Repository
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.routes.gems import GemRoutes
from mirror.rubygems.routes.index import IndexRoutes
from mirror.rubygems.routes.json_api import JsonApi
from mirror.server.pages import PageCache

__all__ = ["Routes"]


class Routes:
    """Which URL of one repository at one mount is which."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, answers: PageCache, reading: ReadAccess, mount: str
    ) -> None:
        self._prefix = mount.rstrip("/")
        self._whole = IndexRoutes(repository, published, answers, reading)
        self._gems = GemRoutes(repository, published, answers, reading)
        self._told = JsonApi(repository, published, answers, reading, self._prefix)

    def table(self) -> list[web.RouteDef]:
        """The routes, to be added to an application."""
        at = self._prefix
        whole, told = self._whole, self._told
        return [
            *self._reads(at),
            web.get(f"{at}/{{which:(?:specs|latest_specs|prerelease_specs)}}.4.8{{gz:(?:\\.gz)?}}", whole.specs),
            web.get(f"{at}/api/v1/gems/{{gem}}.json", told.gem),
            web.get(f"{at}/api/v1/versions/{{gem}}.json", told.versions),
            web.get(f"{at}/api/v1/versions/{{gem}}/latest.json", told.latest),
            web.get(f"{at}/api/v2/rubygems/{{gem}}/versions/{{version}}.json", told.version),
            web.get(f"{at}/api/v1/search.json", told.search),
            web.get(f"{at}/api/v1/dependencies", told.dependencies),
            web.get(f"{at}/api/v1/dependencies.json", told.dependencies),
            *self._reads(f"{at}/at/{{date}}"),
        ]

    def _reads(self, at: str) -> list[web.RouteDef]:
        """What bundler and `gem install` need: below the mount, and below the mount as of a date."""
        return [
            web.head(f"{at}/", self._whole.root),
            web.get(f"{at}/versions", self._whole.versions),
            web.get(f"{at}/names", self._whole.names),
            web.get(f"{at}/info/{{gem}}", self._gems.info),
            web.get(f"{at}/gems/{{filename}}", self._gems.file),
            web.get(f"{at}/quick/Marshal.4.8/{{full}}.gemspec.rz", self._gems.gemspec),
        ]
