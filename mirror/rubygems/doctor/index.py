"""Find the gem index at a URL, and choose the gem that stands for all of it."""

import asyncio
from collections.abc import Sequence

import msgspec
from yarl import URL

from mirror.doctor import IndexClient, WireResponse
from mirror.errors import Invalid, MirrorError, UpstreamRefused, UpstreamUnavailable
from mirror.model import File, Project
from mirror.rubygems.log.versions_map import VersionsMap, parse_versions
from mirror.rubygems.names import GENERIC, address_of, canonical
from mirror.rubygems.pages import parse_info

LOG_LIMIT = 96 << 20
"""The longest /versions that is read, in bytes; the public one has 23 million."""
_INFO_LIMIT = 4 << 20
_HEAD = 4096
_TRIED = 4
"""Gems among those listed first, of which the smallest is chosen."""


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """A gem index that was found."""

    client: IndexClient
    root: URL
    """Ends in a slash."""
    compact: bool
    """Whether it has the compact index; else the legacy one alone."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """An index with the gem that is looked at."""

    index: Index
    log: WireResponse
    """/versions, as gzip where the index can."""
    body: bytes
    """The same, unpacked."""
    versions: VersionsMap
    gem: Project
    info: WireResponse

    @property
    def client(self) -> IndexClient:
        return self.index.client

    @property
    def file(self) -> File | None:
        """The file that is examined: the newest generic one, else the newest that every client knows."""
        files = tuple(file for file in self.gem.files if address_of(file) is None)
        generic = tuple(file for file in files if (file.platform or GENERIC) == GENERIC)
        return next(reversed(generic or files), None)


async def find(client: IndexClient, url: URL) -> Index | None:
    """Return the gem index at a URL, or None where there is none. Raises UpstreamError when nothing responds."""
    root = url.with_path(url.path.rstrip("/") + "/", keep_query=False)
    log = await client.get(root / "versions", most=_HEAD, part=True, Accept_Encoding="identity")
    if log.status in {401, 403}:
        raise UpstreamRefused(f"{log.url} is answered {log.phrase}: log in, in the URL or with --token-file.")
    if log.status == 200 and (b"---\n" in log.body or log.body == b""):
        return Index(client=client, root=root, compact=True)
    specs = await client.head(root / "specs.4.8.gz")
    return Index(client=client, root=root, compact=False) if specs.status == 200 else None


async def choose(index: Index, name: str | None = None, held: Sequence[str] = ()) -> Subject:
    """Choose the gem of that name; else the smallest that is held, or of those listed first.

    Raises Invalid when there is none, UpstreamError when it cannot be read, TooLarge.
    """
    client = index.client
    log = await client.get(index.root / "versions", most=LOG_LIMIT, Accept_Encoding="gzip")
    body = log.identity(LOG_LIMIT)
    versions = await asyncio.to_thread(parse_versions, body)
    first = (one for one in versions)
    names = (
        [name] if name is not None else [*held][:_TRIED] or [one for one, _ in zip(first, range(_TRIED), strict=False)]
    )
    found: list[tuple[Project, WireResponse]] = []
    trouble: MirrorError = Invalid("It lists none.")
    for one in names:
        try:
            info = await client.get(index.root / "info" / canonical(one), most=_INFO_LIMIT, Accept_Encoding="identity")
            if info.status == 404:
                raise Invalid(f"There is no gem {one}.")
            if info.status != 200:
                raise UpstreamUnavailable(f"/info/{one} is answered {info.phrase}.")
            found.append((parse_info(info.body, one, index.root), info))
        except MirrorError as error:
            trouble = error
    found = [one for one in found if one[0].files] or found
    if not found:
        raise trouble
    gem, info = min(found, key=lambda pair: len(pair[1].body))
    return Subject(index=index, log=log, body=body, versions=versions, gem=gem, info=info)
