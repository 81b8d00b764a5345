"""The URLs of one RubyGems repository: compact index, legacy index, gems, JSON.

index     `/versions`, `/names` and the legacy index, all derived from the published log
gems      one gem: its info page, its specifications, its files
json_api  JSON about gems, and search

Pushing and yanking are in `rubygems.upload`.

Below `/at/DATE` there is the compact index once more, where `/info` shows what had been pushed by then. `/versions` is
that of today, since no one can tell what it was on that day: clients learn from it that `/info` differs from their
copy, request it, and believe it. The legacy index is not there: it lists all of every gem at once.

The ten rules that real clients taught, to which comments here and in `server.respond` refer by number:

 1. `/versions`, `/names` and `/info/*` have the MD5 of the whole uncompressed body as a strong, quoted ETag, its
    SHA-256 in both Repr-Digest and Digest (also on a 206), `Accept-Ranges: bytes`, and are text/plain in UTF-8. With
    another ETag, bundler 2.3 and 2.4 give up the compact index; without digests, 2.5 and later fetch everything again.
 2. A range that starts at the end or past it is answered 200 with the whole body, never 416 and never an empty 206.
    A 416 breaks bundler 2.5 to 2.7 and `gem install` of 4.1; an empty 206 crashes bundler 2.5.
 3. A request with Range is answered uncompressed, also with `Accept-Encoding: gzip`: clients append what they get.
 4. If-None-Match matches quoted, weak (`W/`) and bare tags (bundler 2.5.0 to 2.5.4 send bare ones), and a 304 has
    precedence over a range.
 5. One 404, 429 or 5xx for an `/info` that `/versions` lists makes bundler leave the compact index of that source, and
    walk the legacy index by thousands of requests. So serve it stale, or let the client wait.
 6. For bundler, a gem that `/versions` does not list does not exist, whatever `/info` answers; an empty `/versions`
    means that there is no compact index.
 7. `HEAD /` and `HEAD /versions` are answered 200 from memory: each `gem install` sends one of them.
 8. The legacy index (`specs.4.8.gz` and its siblings, with If-Modified-Since, and `quick/Marshal.4.8/*.gemspec.rz`)
    stays: up to gem 4.0, list, search, outdated, fetch, update and info read nothing else, and `gem install` fetches
    the gemspec of each gem.
 9. Form bodies are read whatever Content-Type says, and also with DELETE: gem 4 sends `POST /api/v1/api_key` without
    one, and `gem yank` and `gem owner --remove` send DELETE with a form.
10. When If-None-Match matches, but the range does not begin at the last byte, the client's copy is damaged: it gets the
    whole body with 200 instead of a 304, with which bundler 2.5 and later would keep the damaged copy for ever.
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
    """The routes of one repository at one mount."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, page_cache: PageCache, access: ReadAccess, mount: str
    ) -> None:
        self._prefix = mount.rstrip("/")
        self._index = IndexRoutes(repository, published, page_cache, access)
        self._gems = GemRoutes(repository, published, page_cache, access)
        self._json = JsonApi(repository, published, page_cache, access, self._prefix)

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        at = self._prefix
        json = self._json
        return [
            *self._reads(at),
            web.get(f"{at}/{{which:(?:specs|latest_specs|prerelease_specs)}}.4.8{{gz:(?:\\.gz)?}}", self._index.specs),
            web.get(f"{at}/api/v1/gems/{{gem}}.json", json.gem),
            web.get(f"{at}/api/v1/versions/{{gem}}.json", json.versions),
            web.get(f"{at}/api/v1/versions/{{gem}}/latest.json", json.latest),
            web.get(f"{at}/api/v2/rubygems/{{gem}}/versions/{{version}}.json", json.version),
            web.get(f"{at}/api/v1/search.json", json.search),
            web.get(f"{at}/api/v1/dependencies", json.dependencies),
            web.get(f"{at}/api/v1/dependencies.json", json.dependencies),
            *self._reads(f"{at}/at/{{date}}"),
        ]

    def _reads(self, at: str) -> list[web.RouteDef]:
        """Return the routes that bundler and `gem install` need; they exist below the mount, and as of a date."""
        return [
            web.head(f"{at}/", self._index.root),
            web.get(f"{at}/versions", self._index.versions),
            web.get(f"{at}/names", self._index.names),
            web.get(f"{at}/info/{{gem}}", self._gems.info),
            web.get(f"{at}/gems/{{filename}}", self._gems.file),
            web.get(f"{at}/quick/Marshal.4.8/{{full}}.gemspec.rz", self._gems.gemspec),
        ]
