"""The walk: everything held that a stranger may see, written so that a tree works at every moment.

Files come first, then the pages of the projects that list them, then the lists of projects, and what is gone is taken
away last. Who is killed in between leaves files that nobody knows of, and no page that leads nowhere.
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mirror import __version__
from mirror.airgap.static.browse import start_page
from mirror.airgap.static.holding import HeldContent, bytes_of, digest_of
from mirror.airgap.static.layout import Layout
from mirror.airgap.static.state import Shown, State, begin, finish
from mirror.airgap.static.tree import OWN, Tree
from mirror.errors import Invalid, MirrorError, MissingBlob, UnknownProject
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository, View
from mirror.model import Body, File
from mirror.service.services import Mirror

logger = logging.getLogger(__name__)

EVENTS_AT_ONCE = 10_000
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~%+-]+)*/?")
_MOUNT = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class StaticReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an export did."""

    projects: int
    """In the tree."""
    files: int
    """Files of projects in the tree, or that it speaks of where they are elsewhere."""
    written: int
    """Files of all sorts that are new or other than before, but for the two or three in which we keep books."""
    linked: int
    copied: int
    """Those of them that are held files."""
    removed: int
    problems: tuple[str, ...]
    """What is held and could not be exported, each with its reason."""


Choice = Mapping[str, Collection[str]]
"""Repository → canonical names of projects."""


async def export(
    mirror: Mirror,
    directory: Path,
    layouts: Mapping[str, Layout],
    *,
    changed: bool = False,
    files_url: str | None = None,
    copy: bool = False,
    repositories: Collection[str] = (),
    only: Choice | None = None,
) -> StaticReport:
    """Write what is held into a directory, as an index that needs no mirror; asks no upstream anything.

    `layouts` are those of the formats, by name. With `changed`, files that the last export wrote are not looked at, and
    projects in which nothing happened since are not even rendered; without, every file is compared. `files_url` is
    where the files are, in the tree of another export or on a mirror; they are then not in this one. `repositories`
    names those of which also what not everyone may read is exported; without names, it is all repositories and what
    everyone may read of them. `only` selects projects.

    Raises Invalid for a directory that holds anything else, a URL or name that cannot be; Conflict, OSError.
    """
    if files_url is not None and not _URL.fullmatch(files_url):
        raise Invalid(f"{files_url!r} cannot be where files are: use a plain http or https URL.")
    if unknown := set(repositories) - set(mirror.repositories):
        raise Invalid(f"There is no repository {min(unknown)!r}.")
    chosen = repositories or [name for name in mirror.repositories if not mirror.guard.reading(name).public.nothing]
    tree = await asyncio.to_thread(Tree, directory)
    try:
        walk = _Walk(mirror, tree, layouts, files_url, copy, bool(repositories), only)
        return await walk.run(list(chosen), changed=changed)
    finally:
        tree.close()


class _Walk:
    """One export."""

    def __init__(
        self,
        mirror: Mirror,
        tree: Tree,
        layouts: Mapping[str, Layout],
        files_url: str | None,
        copy: bool,
        closed_too: bool,
        only: Choice | None,
    ) -> None:
        self._mirror = mirror
        self._tree = tree
        self._layouts = layouts
        self._files_url = files_url.rstrip("/") if files_url else ""
        self._copy = copy
        self._closed_too = closed_too
        self._only = only
        self._held = HeldContent(mirror.catalog, mirror.blobs)
        self._known: Mapping[str, str] = {}
        """What need not be looked at again: path → SHA-256."""
        self._problems: list[str] = []

    async def run(self, repositories: list[str], *, changed: bool) -> StaticReport:
        last = await asyncio.to_thread(begin, self._tree)
        origin = self._origin()
        _, serial = await self._mirror.feed.bounds()
        if not changed or last is None or last.origin != origin:
            before, touched = State(), None
        else:
            before, touched = last, await self._touched(last.serial, serial)
            self._known = before.paths()
        await self._held.read()

        projects: dict[str, dict[str, Shown]] = {}
        for name in repositories:
            projects[name] = await self._projects(name, before.projects.get(name, {}), touched)
        pages = await self._pages(projects)
        state = State(origin=origin, serial=serial, projects=projects, pages=pages)
        await self._tidy(state, last)
        await asyncio.to_thread(finish, self._tree, state)
        count = self._tree.count
        shown = [one for each in projects.values() for one in each.values() if one.paths]
        return StaticReport(
            projects=len(shown),
            files=sum(one.files for one in shown),
            written=count.written,
            linked=count.linked,
            copied=count.copied,
            removed=count.removed,
            problems=tuple(self._problems),
        )

    def _origin(self) -> str:
        """What stands for all on which the tree depends besides what is held."""
        repositories = {
            name: (one.format, one.mount, one.private, one.union, [str(upstream.url) for upstream in one.upstreams])
            for name, one in self._mirror.settings.repositories.items()
        }
        catalog = str(self._mirror.settings.catalog_file.absolute())
        facts = (__version__, catalog, repositories, self._files_url, self._closed_too)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    async def _touched(self, since: int, newest: int) -> set[str] | None:
        """The projects in which something has happened; None when nobody can say."""
        oldest, _ = await self._mirror.feed.bounds()
        if since > newest or (since < newest and oldest > since + 1):
            return None
        touched: set[str] = set()
        while since < newest:
            events = await self._mirror.feed.since(since, EVENTS_AT_ONCE)
            if not events:
                break
            touched.update(event.project for event in events)
            since = events[-1].serial
        return touched

    # Projects

    async def _projects(self, name: str, before: Mapping[str, Shown], touched: set[str] | None) -> dict[str, Shown]:
        """Write what is to be seen of a repository's projects; by name, in order."""
        repository = self._mirror.repositories[name]
        layout = self._layouts[repository.format.name]
        mount = self._mount(name)
        readable = self._mirror.guard.reading(name).public
        sources = {source.name for source in repository.sources}
        names = self._held.projects(sources)
        uploads = await self._mirror.catalog.uploads.projects(name)
        now = self._mirror.clock()
        shown: dict[str, Shown] = {}
        for project in sorted(names | uploads.keys()):
            if not (self._closed_too or readable.allows(project)):
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
                shown[project] = last
                continue
            try:
                shown[project] = await self._project(repository, layout, mount, project, stamp)
            except UnknownProject:
                continue  # nothing of it is to be seen
            except MirrorError as error:
                self._problem(f"{project}: {error}")
        return shown

    def _stamp(self, repository: Repository, project: str, uploaded: float | None) -> str:
        held = [self._held.of(source.name, project) for source in repository.sources]
        facts = json.dumps((held, uploaded, repository.policy.digest))
        return hashlib.sha256(facts.encode()).hexdigest()

    async def _project(self, repository: Repository, layout: Layout, mount: str, name: str, stamp: str) -> Shown:
        view = await repository.project(name, Freshness.ANY)
        paths: dict[str, str] = {}
        files: list[File] = []
        sidecars: dict[str, Body | bytes] = {}
        for file in view.project.files:
            try:
                if (listed := await self._file(repository, layout, mount, name, file, paths, sidecars)) is not None:
                    files.append(listed)
            except (Invalid, MissingBlob) as error:
                self._problem(f"{file.filename}: {error}")
        entry = ""
        if files:
            project = msgspec.structs.replace(view.project, files=tuple(files))
            document = await self._document(repository, layout, view)
            told = layout.described_by(project) if document is None else None
            sidecar = await bytes_of(sidecars[told.filename]) if told and told.filename in sidecars else None
            entry = layout.entry(project)
            for path, content in layout.pages(project, self._files(mount), document, sidecar).items():
                paths[mount + path] = await self._write(mount + path, content)
        until = None if view.decided_until == float("inf") else view.decided_until
        return Shown(stamp=stamp, until=until, entry=entry, files=len(files), paths=paths)

    async def _file(
        self,
        repository: Repository,
        layout: Layout,
        mount: str,
        project: str,
        file: File,
        paths: dict[str, str],
        sidecars: dict[str, Body | bytes],
    ) -> File | None:
        """Put a file and its sidecar into the tree; as pages list it, or None where it is not in the tree.

        Raises Invalid, MissingBlob.
        """
        body = await self._held.body(project, file)
        if body is None:
            return None  # it is listed, and not held
        sidecar = await self._held.sidecar(repository, project, file, body)
        digest = None if sidecar is None else digest_of(sidecar)
        listed = layout.shown(file, digest)
        if listed is None:
            if sidecar is None and file.yanked is None and repository.format.has_sidecar(file):
                self._problem(f"{file.filename}: what it says of itself cannot be read.")
            return None
        beside: dict[str, str] = {}
        if not self._files_url:
            beside[path := mount + layout.file(project, file)] = body.digest
            await self._add(path, body)
        if sidecar is not None and digest is not None and repository.format.has_sidecar(file):
            sidecars[file.filename] = sidecar
            if not (self._files_url and layout.sidecars_beside_files):
                beside[path := mount + layout.sidecar(project, file)] = digest
                if self._known.get(path) != digest:
                    await self._write(path, await bytes_of(sidecar))
        elif sidecar is not None:
            sidecars[file.filename] = sidecar
        paths |= beside
        return listed

    async def _document(self, repository: Repository, layout: Layout, view: View) -> bytes | None:
        """What an upstream said about a project, where that was ever asked."""
        try:
            document = await repository.document(view, layout.document(view.project.name), Freshness.ANY)
        except MirrorError:
            return None
        return document.body if document else None

    # Pages about everything

    async def _pages(self, projects: Mapping[str, Mapping[str, Shown]]) -> dict[str, str]:
        """Write the lists of projects, the start pages and the lines for nginx."""
        written: dict[str, str] = {}
        mounts: dict[str, list[Layout]] = {"": []}
        http: dict[str, str] = {}
        server: list[str] = []
        for name, shown in projects.items():
            layout, mount = self._layouts[self._mirror.settings.repositories[name].format], self._mount(name)
            mounts.setdefault(mount, []).append(layout)
            entries = {project: one.entry for project, one in shown.items() if one.paths}
            for path, content in await asyncio.to_thread(_indexes, layout, entries):
                written[mount + path] = await self._write(mount + path, content)
            http[layout.nginx_http()] = ""
            server.append(layout.nginx_server(f"/{mount}".rstrip("/"), self._files(mount)))
        for mount, layouts in mounts.items():
            below = sorted(other.rstrip("/") for other in mounts if other) if mount == "" else []
            path = f"{mount}index.html"
            written[path] = await self._write(path, start_page(layouts, below))
            server.append(f"location = /{mount} {{\n    types {{ text/html html; }}\n    try_files /{path} =404;\n}}\n")
        server.append(f"location ^~ /{OWN}/ {{\n    return 404;\n}}\n")
        for file, lines in (("nginx-http.conf", http), ("nginx-server.conf", server)):
            await asyncio.to_thread(self._tree.write_own, file, "".join(lines).encode())
        return written

    async def _tidy(self, state: State, last: State | None) -> None:
        """Remove what is not of this state: of what the last one says, or wherever we write, unless that is trusted."""
        there = set(last.paths()) if last is not None else set()
        ranks = {
            self._mount(name) + root: rank
            for name, one in self._mirror.settings.repositories.items()
            for rank, root in enumerate(self._layouts[one.format].roots)
        }
        if not self._known:
            for root in ranks:
                there.update(await asyncio.to_thread(self._tree.walk, root))

        def rank(path: str) -> int:
            return next((rank for root, rank in ranks.items() if f"{path}/".startswith(f"{root}/")), 0)

        for path in sorted(there - state.paths().keys(), key=rank):
            try:
                await asyncio.to_thread(self._tree.remove, path)
            except Invalid:
                logger.warning("not removed, as it is no path of the tree: %r", path[:200])

    # Writing

    async def _write(self, path: str, content: bytes) -> str:
        """Write a page unless it is there; its digest."""
        digest = hashlib.sha256(content).hexdigest()
        if self._known.get(path) != digest:
            await asyncio.to_thread(self._tree.write, path, content)
        return digest

    async def _add(self, path: str, body: Body) -> None:
        """Put a held file where it belongs, unless it is there."""
        if self._known.get(path) == body.digest:
            return
        if body.path is not None:
            await asyncio.to_thread(self._tree.add, path, body.path, copy=self._copy)
            return
        async with _spooled(body, self._tree) as file:
            await asyncio.to_thread(self._tree.add, path, file, copy=True)

    def _problem(self, sentence: str) -> None:
        self._problems.append(sentence)

    def _mount(self, repository: str) -> str:
        """The path of a repository's mount in the tree: empty, or with a slash at its end. Raises Invalid."""
        mount = self._mirror.settings.repositories[repository].mount.rstrip("/")
        if not _MOUNT.fullmatch(mount):
            raise Invalid(f"The mount {mount!r} cannot be a directory of an exported tree.")
        return f"{mount[1:]}/" if mount else ""

    def _files(self, mount: str) -> str:
        """The absolute URL of a mount where the files are; empty when they are in the tree."""
        return f"{self._files_url}/{mount}" if self._files_url else ""


def _indexes(layout: Layout, entries: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """All of them, made at once: blocking."""
    return list(layout.index(entries))


@asynccontextmanager
async def _spooled(body: Body, tree: Tree) -> AsyncIterator[Path]:
    """The bytes of a body that lies in no local file, in one."""
    place = tree.own / "spooled"
    try:
        with place.open("wb") as file:
            async for chunk in body.read():
                await asyncio.to_thread(file.write, chunk)
        yield place
    finally:
        place.unlink(missing_ok=True)
