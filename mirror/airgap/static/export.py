"""The export: write everything held that the public may read, so that the tree works at every moment.

Files come first, then the pages of the projects that list them, then the lists of projects; what is gone is removed
last. An export that is killed leaves files that no page lists, but no page that lists a missing file.
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path

import msgspec

from mirror import __version__
from mirror.airgap.static.content import HeldContent, bytes_of, digest_of, index_documents
from mirror.airgap.static.tree import OWN, Tree, TreeProject, TreeState, begin, finish
from mirror.auth.rights import Scope
from mirror.blobs import BlobStore
from mirror.catalog import Catalog
from mirror.errors import Invalid, MirrorError, MissingBlob, UnknownProject
from mirror.index.ecosystem import StaticLayout
from mirror.index.freshness import Freshness
from mirror.index.journal import Journal
from mirror.index.repository import Repository, View
from mirror.model import Body, File

logger = logging.getLogger(__name__)

EVENTS_PER_READ = 10_000
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~%+-]+)*/?")
_MOUNT = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class StaticSource(msgspec.Struct, frozen=True, kw_only=True):
    """The store and the repositories that an export reads. Mappings are by repository."""

    repositories: Mapping[str, Repository]
    layouts: Mapping[str, StaticLayout]
    mounts: Mapping[str, str]
    public: Mapping[str, Scope]
    """What everyone may read."""
    settings: Sequence[object]
    """The settings on which pages depend, as JSON: the content of two sources with different ones may differ."""
    catalog: Catalog
    blobs: BlobStore
    journal: Journal
    clock: Callable[[], float]


class StaticReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an export."""

    projects: int
    """In the tree."""
    files: int
    """Files that pages of the tree list, in the tree or elsewhere."""
    written: int
    """Files of any kind that are new or changed, without those below `.mirror`."""
    linked: int
    copied: int
    """Held files among those written; likewise `linked`."""
    removed: int
    problems: tuple[str, ...]
    """What is held and could not be exported, each with its reason, as a sentence."""


async def export(
    source: StaticSource,
    directory: Path,
    *,
    changed: bool = False,
    files_url: str | None = None,
    copy: bool = False,
    repositories: Collection[str] = (),
    only: Mapping[str, Collection[str]] | None = None,
) -> StaticReport:
    """Write what is held into a directory as an index that needs no mirror, without asking any upstream.

    With `changed`, files that the last export wrote are not compared, and projects without an event since then are not
    even rendered; otherwise every file is compared. `files_url` is where the files are, in the tree of another export
    or on a mirror; they are then left out of this one. `repositories` names those to export whole, including what not
    everyone may read; without names, what everyone may read of all repositories is exported. `only` selects projects:
    repository → canonical names.

    Raises Invalid for a directory that holds anything else, a bad URL or an unknown name; Conflict, OSError.
    """
    if files_url is not None and not _URL.fullmatch(files_url):
        raise Invalid(f"{files_url!r} cannot be where files are: use a plain http or https URL.")
    if unknown := set(repositories) - set(source.repositories):
        raise Invalid(f"There is no repository {min(unknown)!r}.")
    chosen = repositories or [name for name in source.repositories if not source.public[name].nothing]
    tree = await asyncio.to_thread(Tree, directory)
    try:
        running = _Export(source, tree, files_url, copy, bool(repositories), only)
        return await running.run(list(chosen), changed=changed)
    finally:
        tree.close()


class _Export:
    """One export while it runs."""

    def __init__(
        self,
        source: StaticSource,
        tree: Tree,
        files_url: str | None,
        copy: bool,
        include_restricted: bool,
        only: Mapping[str, Collection[str]] | None,
    ) -> None:
        self._source = source
        self._tree = tree
        self._files_url = files_url.rstrip("/") if files_url else ""
        self._copy = copy
        self._include_restricted = include_restricted
        self._only = only
        self._held = HeldContent(source.catalog, source.blobs)
        self._known: Mapping[str, str] = {}
        """Files that need not be compared: path → SHA-256."""
        self._problems: list[str] = []

    async def run(self, repositories: list[str], *, changed: bool) -> StaticReport:
        last = await asyncio.to_thread(begin, self._tree)
        origin = self._origin()
        _, serial = await self._source.journal.bounds()
        if not changed or last is None or last.origin != origin:
            before, touched = TreeState(), None
        else:
            before, touched = last, await self._touched(last.serial, serial)
            self._known = before.paths()
        await self._held.read()

        projects: dict[str, dict[str, TreeProject]] = {}
        for name in repositories:
            projects[name] = await self._projects(name, before.projects.get(name, {}), touched)
        pages = await self._pages(projects)
        state = TreeState(origin=origin, serial=serial, projects=projects, pages=pages)
        await self._tidy(state, last)
        await asyncio.to_thread(finish, self._tree, state)
        counts = self._tree.counts
        listed = [one for each in projects.values() for one in each.values() if one.paths]
        return StaticReport(
            projects=len(listed),
            files=sum(one.files for one in listed),
            written=counts.written,
            linked=counts.linked,
            copied=counts.copied,
            removed=counts.removed,
            problems=tuple(self._problems),
        )

    def _origin(self) -> str:
        """Return a digest of everything that the tree depends on besides what is held."""
        facts = (__version__, *self._source.settings, self._files_url, self._include_restricted)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    async def _touched(self, since: int, newest: int) -> set[str] | None:
        """Return the projects with an event since then; None when the journal does not reach back that far."""
        oldest, _ = await self._source.journal.bounds()
        if since > newest or (since < newest and oldest > since + 1):
            return None
        touched: set[str] = set()
        while since < newest:
            events = await self._source.journal.since(since, EVENTS_PER_READ)
            if not events:
                break
            touched.update(event.project for event in events)
            since = events[-1].serial
        return touched

    # Projects

    async def _projects(
        self, name: str, before: Mapping[str, TreeProject], touched: set[str] | None
    ) -> dict[str, TreeProject]:
        """Write the projects of a repository; return them by name, in order."""
        repository = self._source.repositories[name]
        layout = self._source.layouts[name]
        mount = self._mount(name)
        readable = self._source.public[name]
        sources = {source.name for source in repository.sources}
        names = self._held.projects(sources)
        uploads = await self._source.catalog.uploads.projects(name)
        now = self._source.clock()
        written: dict[str, TreeProject] = {}
        for project in sorted(names | uploads.keys()):
            if not (self._include_restricted or readable.allows(project)):
                continue
            if self._only is not None and project not in self._only.get(name, ()):
                continue
            stamp = self._stamp(repository, project, uploads.get(project))
            last = before.get(project)
            if (
                last is not None
                and touched is not None
                and project not in touched
                and last.stamp == stamp
                and (last.until is None or now < last.until)
            ):
                written[project] = last
                continue
            try:
                written[project] = await self._project(repository, layout, mount, project, stamp)
            except UnknownProject:
                continue  # it lists nothing
            except MirrorError as error:
                self._problems.append(f"{project}: {error}")
        return written

    def _stamp(self, repository: Repository, project: str, uploaded: float | None) -> str:
        held = [self._held.of(source.name, project) for source in repository.sources]
        facts = json.dumps((held, uploaded, repository.policy.digest))
        return hashlib.sha256(facts.encode()).hexdigest()

    async def _project(
        self, repository: Repository, layout: StaticLayout, mount: str, name: str, stamp: str
    ) -> TreeProject:
        view = await repository.project(name, Freshness.ANY)
        paths: dict[str, str] = {}
        files: list[File] = []
        sidecars: dict[str, Body | bytes] = {}
        for file in view.project.files:
            try:
                if (listed := await self._file(repository, layout, mount, name, file, paths, sidecars)) is not None:
                    files.append(listed)
            except (Invalid, MissingBlob) as error:
                self._problems.append(f"{file.filename}: {error}")
        entry = ""
        if files:
            project = msgspec.structs.replace(view.project, files=tuple(files))
            document = await self._document(repository, layout, view)
            described = layout.described_by(project) if document is None else None
            sidecar = (
                await bytes_of(sidecars[described.filename]) if described and described.filename in sidecars else None
            )
            entry = layout.entry(project)
            for path, content in layout.pages(project, self._files(mount), document, sidecar).items():
                paths[mount + path] = await self._write(mount + path, content)
        until = None if view.decided_until == float("inf") else view.decided_until
        return TreeProject(stamp=stamp, until=until, entry=entry, files=len(files), paths=paths)

    async def _file(
        self,
        repository: Repository,
        layout: StaticLayout,
        mount: str,
        project: str,
        file: File,
        paths: dict[str, str],
        sidecars: dict[str, Body | bytes],
    ) -> File | None:
        """Put a file and its sidecar into the tree; return the file as pages list it, None where it is left out.

        Raises Invalid, MissingBlob.
        """
        body = await self._held.body(repository, project, file)
        if body is None:
            return None  # upstream lists it, and it is not held
        sidecar = await self._held.sidecar(repository, project, file, body)
        listed = layout.listed(file, digest_of(sidecar) if sidecar is not None else None)
        if listed is None:
            if sidecar is None and file.yanked is None and repository.format.has_sidecar(file):
                self._problems.append(f"{file.filename}: its metadata cannot be read.")
            return None
        written: dict[str, str] = {}
        if not self._files_url:
            written[path := mount + layout.file(project, file)] = body.digest
            await self._add(path, body)
        if sidecar is not None:
            sidecars[file.filename] = sidecar
            if repository.format.has_sidecar(file) and not (self._files_url and layout.sidecars_beside_files):
                written[path := mount + layout.sidecar(project, file)] = digest_of(sidecar)
                if self._known.get(path) != written[path]:
                    await self._write(path, await bytes_of(sidecar))
        paths |= written
        return listed

    async def _document(self, repository: Repository, layout: StaticLayout, view: View) -> bytes | None:
        """Return the stored document in which an upstream describes a project, if any."""
        try:
            document = await repository.document(view, layout.document(view.project.name), Freshness.ANY)
            return (await document.read()).content if document else None
        except MirrorError:
            return None

    # Pages about all projects

    async def _pages(self, projects: Mapping[str, Mapping[str, TreeProject]]) -> dict[str, str]:
        """Write the lists of projects, the start pages and the lines for nginx; return path → SHA-256."""
        written: dict[str, str] = {}
        mounts: dict[str, list[StaticLayout]] = {"": []}
        http: dict[str, str] = {}
        server: list[str] = []
        for name, exported in projects.items():
            layout, mount = self._source.layouts[name], self._mount(name)
            mounts.setdefault(mount, []).append(layout)
            entries = {project: one.entry for project, one in exported.items() if one.paths}
            documents = await index_documents(self._source.repositories[name])
            for path, content in await asyncio.to_thread(list, layout.index(entries, documents)):
                written[mount + path] = await self._write(mount + path, content)
            http[layout.nginx_http()] = ""
            server.append(layout.nginx_server(f"/{mount}".rstrip("/"), self._files(mount)))
        for mount, layouts in mounts.items():
            below = sorted(other.rstrip("/") for other in mounts if other) if mount == "" else []
            path = f"{mount}index.html"
            written[path] = await self._write(path, _start_page(layouts, below))
            server.append(f"location = /{mount} {{\n    types {{ text/html html; }}\n    try_files /{path} =404;\n}}\n")
        server.append(f"location ^~ /{OWN}/ {{\n    return 404;\n}}\n")
        for file, lines in (("nginx-http.conf", http), ("nginx-server.conf", server)):
            await asyncio.to_thread(self._tree.write_own, file, "".join(lines).encode())
        return written

    async def _tidy(self, state: TreeState, last: TreeState | None) -> None:
        """Remove what is not in `state`: of the last state, and where that is not trusted, of all that stands there."""
        old = set(last.paths()) if last is not None else set()
        ranks = {
            self._mount(name) + root: rank
            for name in self._source.repositories
            for rank, root in enumerate(self._source.layouts[name].roots)
        }
        if not self._known:
            for root in ranks:
                old.update(await asyncio.to_thread(self._tree.walk, root))

        def rank(path: str) -> int:
            return next((rank for root, rank in ranks.items() if f"{path}/".startswith(f"{root}/")), 0)

        for path in sorted(old - state.paths().keys(), key=rank):
            try:
                await asyncio.to_thread(self._tree.remove, path)
            except Invalid:
                logger.warning("not removed, because it is not a path of the tree: %r", path[:200])

    # Writing

    async def _write(self, path: str, content: bytes) -> str:
        """Write a page unless it is there; return its digest."""
        digest = hashlib.sha256(content).hexdigest()
        if self._known.get(path) != digest:
            await asyncio.to_thread(self._tree.write, path, content)
        return digest

    async def _add(self, path: str, body: Body) -> None:
        """Put a held file into the tree, unless it is there."""
        if self._known.get(path) == body.digest:
            return
        if body.path is not None:
            await asyncio.to_thread(self._tree.add, path, body.path, copy=self._copy)
            return
        async with _spooled(body, self._tree) as file:
            await asyncio.to_thread(self._tree.add, path, file, copy=True)

    def _mount(self, repository: str) -> str:
        """Return the path of a repository's mount in the tree: empty, or with a slash at its end. Raises Invalid."""
        mount = self._source.mounts[repository].rstrip("/")
        if not _MOUNT.fullmatch(mount):
            raise Invalid(f"The mount {mount!r} cannot be a directory of an exported tree.")
        return f"{mount[1:]}/" if mount else ""

    def _files(self, mount: str) -> str:
        """Return the absolute URL of a mount where the files are; empty when they are in the tree."""
        return f"{self._files_url}/{mount}" if self._files_url else ""


def _start_page(layouts: Iterable[StaticLayout], below: Iterable[str]) -> bytes:
    """Render the start page of a mount with these indexes; `below` are the paths of other mounts, relative to it."""
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        "<title>Package index</title>\n</head>\n<body>\n<h1>Package index</h1>",
    ]
    for layout in layouts:
        lines.append(f'<h2>{escape(layout.title)}</h2>\n<p><a href="{layout.start}">All of them</a></p>')
        lines.append(f"<p>To use it:</p>\n<pre>{escape(layout.usage('https://this-server.example/'))}</pre>")
    if others := [f'<li><a href="{escape(path)}/">{escape(path)}</a></li>' for path in below]:
        lines += ["<h2>More</h2>\n<ul>", *others, "</ul>"]
    lines.append("</body>\n</html>\n")
    return "\n".join(lines).encode()


@asynccontextmanager
async def _spooled(body: Body, tree: Tree) -> AsyncIterator[Path]:
    """Copy a body without a local file into one, for the length of the block."""
    path = tree.own / "spooled"
    try:
        with path.open("wb") as file:
            async for chunk in body.read():
                await asyncio.to_thread(file.write, chunk)
        yield path
    finally:
        path.unlink(missing_ok=True)
