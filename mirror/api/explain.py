"""Why a project looks as it does: where it comes from, and what policy decides of each file, now and later.

`explain_project` reads the same sources as a page does. `ExplainApi` answers
`GET /-/explain/REPOSITORY/PROJECT[/VERSION]`: lines for people, or JSON for clients that accept it. A client that may
not read a project gets the same answer as for an unknown one.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
from aiohttp import web

from mirror.auth import Guard
from mirror.catalog import Files
from mirror.errors import NotFound
from mirror.index.precedence import chosen
from mirror.index.repository import Repository, UnfilteredProject
from mirror.model import File
from mirror.policy import explain, verdict
from mirror.server.facts import facts_of
from mirror.server.negotiate import qualities
from mirror.upstream import checkable

UNVERIFIED_NAMES = 10
"""The number of files that are named when there is no digest of them."""


class FileExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """One file, and what policy decides of it."""

    filename: str
    version: str
    source: str
    uploaded: datetime | None
    age: float | None
    """Seconds since it was uploaded."""
    held: bool
    verified: bool
    """Whether its index lists a digest that its bytes are compared with."""
    yanked: str | None
    removed: bool
    """The upstream no longer lists it."""
    state: str
    """visible, hidden or blocked."""
    rule: str
    reason: str
    until: float | None
    """Seconds since the epoch: when this changes by itself."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One project in one repository."""

    repository: str
    project: str
    merge: str
    """The rule by which its sources were chosen: private, union, uploaded or first."""
    sources: tuple[str, ...]
    """Those that have it, in order of precedence."""
    files: tuple[FileExplanation, ...]
    lines: tuple[str, ...]
    """All of it for people."""


async def explain_project(
    repository: Repository, files: Files, name: str, version: str | None, now: float
) -> Explanation:
    """Explain a project by any spelling of its name, or one of its versions. Raises Invalid, NotFound, Unavailable."""
    name = repository.format.canonical(name)
    found = await repository.candidates(name)
    held = await _held(repository, files, found)
    return await asyncio.to_thread(_explain, repository, found, name, version, held, now)


def _explain(
    repository: Repository, found: UnfilteredProject, name: str, version: str | None, held: set[str], now: float
) -> Explanation:
    key = repository.policy.versions.key
    wanted = [file for file in found.project.files if version is None or key(file.version) == key(version)]
    lines = explain(repository.policy, found.project, now, version=version, held=held, removed=found.removed)
    return Explanation(
        repository=repository.name,
        project=name,
        merge=found.choice.rule,
        sources=found.sources,
        files=tuple(_file(repository, found, file, file.filename in held, now) for file in wanted),
        lines=(
            f"{name} in {repository.name}: {chosen(found.choice, found.sources)}",
            *lines,
            *_unverified(wanted),
            *(
                f"{file.filename} is listed with {len(file.alternatives)} digests; its bytes may have any of them"
                for file in wanted
                if file.alternatives
            ),
        ),
    )


def _unverified(files: Sequence[File]) -> list[str]:
    """Return lines for the files that nothing verifies."""
    names = [file.filename for file in files if file.url and not checkable(file)]
    if not names:
        return []
    some = ", ".join(names[:UNVERIFIED_NAMES]) + (", …" if len(names) > UNVERIFIED_NAMES else "")
    return [f"Nothing verifies {len(names)} of these files, because no digest of them is listed: {some}"]


def _file(repository: Repository, found: UnfilteredProject, file: File, held: bool, now: float) -> FileExplanation:
    removed = file.filename in found.removed
    decided = verdict(repository.policy, found.project, file, now, removed=removed)
    return FileExplanation(
        filename=file.filename,
        version=file.version,
        source=file.source,
        uploaded=file.uploaded,
        age=None if file.uploaded is None else now - file.uploaded.timestamp(),
        held=held,
        verified=checkable(file),
        yanked=file.yanked,
        removed=removed,
        state=decided.state,
        rule=decided.rule,
        reason=decided.reason,
        until=decided.until,
    )


async def _held(repository: Repository, files: Files, found: UnfilteredProject) -> set[str]:
    local = {source.name for source in repository.sources if source.local}
    held = {file.filename for file in found.project.files if file.source in local}
    for source in found.sources:
        held |= {one.filename for one in await files.of_project(source, found.project.name)}
    return held


class ExplainApi:
    """The handler for all repositories."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        guard: Guard,
        files: Files,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repositories = repositories
        self._guard = guard
        self._files = files
        self._clock = clock
        self._explaining = asyncio.Semaphore(1)  # threads take turns anyway, and the event loop is one that waits

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        return [
            web.get("/-/explain/{repository}/{project}", self.explain),
            web.get("/-/explain/{repository}/{project}/{version}", self.explain),
        ]

    async def explain(self, request: web.Request) -> web.Response:
        """Explain one project, or one version of it."""
        repository = self._repositories.get(request.match_info["repository"])
        if repository is None:
            raise NotFound("There is no repository of that name here.")
        facts_of(request).repository = repository.name
        name = repository.format.canonical(request.match_info["project"])
        await self._guard.require(request, "read", repository.name, name)
        version = request.match_info.get("version")
        async with self._explaining:
            explanation = await explain_project(repository, self._files, name, version, self._clock())
        headers = {"Cache-Control": "no-store", "Vary": "Accept"}
        if "application/json" in qualities(request.headers.get("Accept", "")):
            return web.Response(body=msgspec.json.encode(explanation), content_type="application/json", headers=headers)
        return web.Response(text="".join(f"{line}\n" for line in explanation.lines), headers=headers)
