"""Find the Python index at a URL, and choose the project that stands for all of it."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from yarl import URL

from mirror.doctor import IndexClient, WireResponse
from mirror.errors import Invalid, MirrorError, UpstreamError, UpstreamRefused, UpstreamUnavailable
from mirror.model import File, Page, Project, UpstreamResponse
from mirror.pypi.documents import decode_json
from mirror.pypi.names import canonical
from mirror.pypi.pages import HTML_TYPE, JSON_TYPE, parse_simple

ANY = f"{JSON_TYPE}, {HTML_TYPE};q=0.2, text/html;q=0.01"
_HEAD = 256 << 10
"""How much of the list of projects is read, in bytes: the public one has forty million."""
_PAGE = 8 << 20
_TRIED = 4
"""How many of the projects that are listed first are tried; the smallest is chosen."""
_JSON_NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,200})"')
_HTML_NAME = re.compile(r"<a\s[^>]{0,500}>([^<>]{1,200})</a>", re.IGNORECASE)


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """A Python index that was found."""

    client: IndexClient
    simple: URL
    """The URL of the list of projects, which ends in a slash."""
    names: tuple[str, ...]
    """Canonical names of the projects that it lists first."""

    @property
    def root(self) -> URL:
        """The URL below which `simple/`, `pypi/` and `legacy/` are."""
        return self.simple.parent.parent / ""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """An index, and the project that is examined."""

    index: Index
    project: Project
    page: WireResponse
    """The project's page, in JSON where the index has that, else in HTML."""
    document: dict[str, Any] | None
    """The decoded JSON page; None for HTML."""

    @property
    def client(self) -> IndexClient:
        return self.index.client

    @property
    def url(self) -> URL:
        """The URL of the project's page."""
        return self.index.simple / self.project.name / ""

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries of files on the JSON page."""
        files = (self.document or {}).get("files")
        return [entry for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []

    @property
    def file(self) -> File | None:
        """The file that is examined: the smallest, a wheel with metadata beside it where there is one."""

        def order(file: File) -> tuple[bool, bool, int]:
            return not file.extra.get("core-metadata"), not file.filename.endswith(".whl"), file.size or 1 << 40

        return min(self.project.files, key=order, default=None)


async def find(client: IndexClient, url: URL, project: str | None = None) -> Index | None:
    """Find the Python index at the URL of its list of projects, or above that; None where there is none.

    With `project`, an index that does not list its projects is found by that page. Raises UpstreamError when nothing
    answers, Invalid for a wrong name.
    """
    base = url.with_path(url.path.rstrip("/") + "/", keep_query=False)
    candidates = (
        [base] if base.parent.name == "simple" or base.path.endswith("/simple/") else [base / "simple" / "", base]
    )
    trouble: UpstreamError | None = None
    for simple in candidates:
        sure = simple.path.endswith("/simple/")
        try:
            reply = await client.follow(simple, most=_HEAD, part=True, Accept=ANY)
        except UpstreamError as error:
            trouble = error
            continue
        if reply.status in {401, 403}:
            trouble = UpstreamRefused(f"{simple} is answered {reply.phrase}: log in, in the URL or with --token-file.")
        if reply.status == 200 and _is_index(reply, sure):
            return Index(client=client, simple=simple, names=_names(reply))
        if project is not None and sure:
            page = await client.follow(simple / canonical(project) / "", most=_HEAD, part=True, Accept=ANY)
            if page.status == 200:
                return Index(client=client, simple=simple, names=())
    if trouble is not None:
        raise trouble
    return None


def _is_index(reply: WireResponse, sure: bool) -> bool:
    """Return whether it can be a list of projects; `sure` at /simple/, where a page without a type is one too."""
    if reply.media_type in {JSON_TYPE, HTML_TYPE}:
        return True
    if b"pypi:repository-version" in reply.body[:4096]:
        return True
    return sure and not reply.body.lstrip().lower().startswith(b"<?xml")


def _names(reply: WireResponse) -> tuple[str, ...]:
    text = reply.body.decode("utf-8", "replace")
    pattern = _JSON_NAME if reply.body.lstrip().startswith(b"{") else _HTML_NAME
    found: dict[str, None] = {}
    for match in pattern.finditer(text):
        try:
            found[canonical(match[1].strip())] = None
        except Invalid:
            continue
    return tuple(found)


async def choose(index: Index, project: str | None = None, held: Sequence[str] = ()) -> Subject:
    """Choose the project of that name; else the smallest that is held, or of those listed first, that has a file.

    Raises Invalid when there is none, UpstreamError when none can be read.
    """
    if project is not None:
        return await _subject(index, canonical(project))
    found: list[Subject] = []
    trouble: MirrorError = Invalid("The index lists no project.")
    for name in (held or index.names)[:_TRIED]:
        try:
            found.append(await _subject(index, name))
        except MirrorError as error:
            trouble = error
    found = [one for one in found if one.project.files] or found
    if not found:
        raise trouble
    return min(found, key=lambda one: len(one.page.body))


async def _subject(index: Index, name: str) -> Subject:
    reply = await index.client.follow(index.simple / name / "", most=_PAGE, Accept=ANY)
    if reply.status == 404:
        raise Invalid(f"There is no project {name}.")
    if reply.status != 200:
        raise UpstreamUnavailable(f"The page of {name} is answered {reply.phrase}.")
    json_page = reply.media_type.endswith("json") or reply.body.lstrip().startswith(b"{")
    # The Content-Type is judged elsewhere; here the page is read whatever it is.
    answer = UpstreamResponse(url=str(reply.url), content_type=JSON_TYPE if json_page else "text/html", body=reply.body)
    project = parse_simple(Page("project", name), answer)
    return Subject(index=index, project=project, page=reply, document=decode_json(reply.body) if json_page else None)
