"""`mirror follow`: keep this mirror a replica of another one, or of chosen projects of it, until interrupted.

The other mirror has to be an upstream here: what is followed is served as what comes from that upstream. Beside a
running mirror this is a client of it (see `mirror.cli.through`); otherwise it works in the store itself. The settings
`follow` and `follow_only` of an upstream let `mirror serve` do the same by itself.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.opening import shared_options
from mirror.cli.selecting import Misuse

if TYPE_CHECKING:
    from pydantic import SecretStr

    from mirror.airgap.follow import Applier, Follower, RemoteMirror
    from mirror.api.state import FollowState
    from mirror.catalog import Files
    from mirror.cli.through import RemoteFetcher
    from mirror.config import Settings, UpstreamSettings
    from mirror.index.upstream import CachedUpstream
    from mirror.service.services import Mirror

SAME_AGAIN = 2.1
"""Seconds after which a running mirror asks its upstream for the list of gems again, when it did so just now."""
STEP = 0.25
"""Seconds between two looks whether it has."""
EVERY = 1.0
"""Seconds between two lines about how it goes, where there is no terminal."""


@click.command("follow", short_help="Keep a replica of another mirror.")
@click.argument("url")
@click.option("--repository", metavar="NAME", help="Follow only the repository that is called so there.")
@click.option("--project", "projects", multiple=True, metavar="PATTERN",
              help="Follow only these projects: a name or a pattern such as 'acme-*'. Several times.")  # fmt: skip
@click.option("--into", metavar="NAME", help="Only into this repository here, where several have it as an upstream.")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Holds a token that may read there, if the settings of the upstream hold none.")  # fmt: skip
@click.option("--once", is_flag=True, help="End as soon as nothing is left to do.")
@shared_options
def command(
    url: str, repository: str | None, projects: tuple[str, ...], into: str | None, token_file: Path | None,
    once: bool, config: Path | None, data_dir: Path | None,
) -> int:  # fmt: skip
    """Follow the mirror at URL: what changes there is here at once, and what it holds is held here.

    URL is where the other mirror answers, or one of its indexes; it has to be an upstream of a repository here. It goes
    on where it was when it last ran; when that is longer ago than the other mirror remembers, it compares what both
    hold. It works beside a running mirror.

    Exit status 0 with --once when everything is here, 1 when something is not; 130 when interrupted.
    """
    import asyncio

    from mirror.cli.selecting import checked_settings
    from mirror.runtime import event_loops

    settings = checked_settings(config, data_dir)
    if settings.offline:
        raise Misuse("This mirror is set to be offline: nothing can be followed.")
    upstreams = _fitting(settings, url, into)
    token = _token(token_file) if token_file else None
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        return runner.run(_follow(settings, upstreams, projects, repository, token, once))


def _fitting(settings: "Settings", text: str, into: str | None) -> "list[tuple[str, UpstreamSettings]]":
    """The upstreams here that are indexes of the mirror at a URL. Raises Misuse."""
    from mirror.config.values import index_url
    from mirror.service.ecosystems import ECOSYSTEMS

    try:
        url = index_url(text)
    except ValueError as error:
        raise Misuse(f"{text[:200]} {error}.") from None
    if into is not None and into not in settings.repositories:
        raise Misuse(f"There is no repository {into!r} here, only {', '.join(settings.repositories)}.")
    root = url.path.rstrip("/") + "/"
    found = [
        (name, upstream)
        for name, one in settings.repositories.items() if into in (None, name)
        for upstream in one.upstreams
        if upstream.url.origin() == url.origin() and f"{upstream.url.path.rstrip('/')}/".startswith(root)
    ]  # fmt: skip
    if not found:
        name = into or next(iter(settings.repositories))
        path = ECOSYSTEMS[settings.repositories[name].format].index_path
        index = url / path if path and path.rstrip("/") not in url.parts else url
        raise Misuse(
            f"{text[:200]} is no upstream of {'the repository ' + into if into else 'any repository'} here: let"
            f' upstreams of [repositories.{name}] be ["{index.with_user(None)}"], and clients get here what is there.'
        )
    return found


def _token(path: Path) -> "SecretStr":
    from pydantic import SecretStr

    text = path.read_text(errors="replace")[:4096].strip()
    if not text or not text.isascii():
        raise Misuse(f"{path} holds no token.")
    return SecretStr(text)


async def _follow(
    settings: "Settings", upstreams: "list[tuple[str, UpstreamSettings]]", projects: tuple[str, ...],
    repository: str | None, token: "SecretStr | None", once: bool,
) -> int:  # fmt: skip
    import asyncio

    from mirror.errors import NotFound
    from mirror.service.following import follower, remote_of

    if token is not None:
        upstreams = [
            (name, one if one.secret() else one.model_copy(update={"username": "__token__", "password": token}))
            for name, one in upstreams
        ]
        settings = _with(settings, upstreams)
    followers: list[Follower] = []
    async with _reached(settings) as (mirror, reach):
        for name, upstream in upstreams:
            source = next(one for one in mirror.cached[name] if one.upstream.url == upstream.url)
            remote = remote_of(mirror, name, source)
            if repository is None or await _is(remote, repository):
                one = follower(mirror, name, source, reach(name, source), projects, remote)
                one.tell = Shown(f"{name} from {source.upstream.name}")
                followers.append(one)
        if not followers:
            raise NotFound(f"There is no repository {repository!r} there that is an upstream here.")
        async with asyncio.TaskGroup() as group:
            for one in followers:
                group.create_task(one.catch_up() if once else one.run())
    return 1 if any(one.state.failed for one in followers) else 0


def _with(settings: "Settings", upstreams: "list[tuple[str, UpstreamSettings]]") -> "Settings":
    """The settings with these upstreams in place of those of the same address."""
    changed = {(name, upstream.url): upstream for name, upstream in upstreams}
    repositories = {
        name: one.model_copy(update={"upstreams": tuple(changed.get((name, up.url), up) for up in one.upstreams)})
        for name, one in settings.repositories.items()
    }
    return settings.model_copy(update={"repositories": repositories})


async def _is(remote: "RemoteMirror", repository: str) -> bool:
    return (await remote.place()).repository == repository


@asynccontextmanager
async def _reached(
    settings: "Settings",
) -> "AsyncIterator[tuple[Mirror, Callable[[str, CachedUpstream], Applier]]]":
    """A mirror to look into, and what does what has to be done."""
    from mirror.airgap.sync import CONNECTIONS
    from mirror.cli.through import RemoteFetcher
    from mirror.errors import ConfigError
    from mirror.service import scheduled_sync
    from mirror.service.directory import served_at
    from mirror.service.following import LocalApplier
    from mirror.service.services import working

    async with AsyncExitStack() as stack:
        urls = served_at(settings.data_dir)
        if urls is None:
            alone = await stack.enter_async_context(working(settings))
            yield alone, lambda name, source: LocalApplier(alone, name, source.upstream.url)
            return
        if not urls:
            raise ConfigError("A mirror is just starting in this data directory: try again in a moment.")
        mirror = await stack.enter_async_context(scheduled_sync.looking(settings))
        mounts = {name: one.mount for name, one in settings.repositories.items()}
        access = await stack.enter_async_context(scheduled_sync.access(mirror, urls))
        through = RemoteFetcher(urls[0], mirror.repositories, mounts, CONNECTIONS, access.headers)
        stack.push_async_callback(through.close)
        yield mirror, lambda name, source: RemoteApplier(through, name, source.name, mirror.catalog.files)


class RemoteApplier:
    """What is done beside a running mirror: it is asked for what it should have."""

    def __init__(self, through: "RemoteFetcher", repository: str, source: str, files: "Files") -> None:
        self._through = through
        self._repository = repository
        self._source = source
        self._files = files
        self._etag: str | None = None

    async def index(self) -> None:
        import asyncio

        if not self._through.has_log(self._repository):
            return
        until = time.monotonic() + SAME_AGAIN
        etag = await self._through.renewed(self._repository)
        while etag == self._etag and time.monotonic() < until:  # perhaps because it asked its upstream just before
            await asyncio.sleep(STEP)
            etag = await self._through.renewed(self._repository)
        self._etag = etag

    async def page(self, project: str) -> None:
        await self._through.renewed(self._repository, project)

    async def file(self, project: str, filename: str) -> bool:
        from mirror.model import File

        known = await self._files.get(self._source, project, filename)
        await self._through.fetch(self._repository, project, File(filename=filename, version=""))
        return known is None


class Shown:
    """How it goes: one line that changes on a terminal, now and then a line elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said = ""
        self._at = float("-inf")
        self._terminal = sys.stderr.isatty()

    def __call__(self, state: "FollowState") -> None:
        text = f"{self._name}: {_text(state)}"
        now = time.monotonic()
        done = state.behind == 0 and not state.last_error
        if text == self._said or (not done and now - self._at < EVERY):
            return
        self._said, self._at = text, now
        if self._terminal:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
        else:
            click.echo(text)


def _text(state: "FollowState") -> str:
    if state.last_error:
        return state.last_error
    done = f"{state.pages:,} pages and {state.files:,} files brought"
    if state.comparing:
        return f"comparing what is held, at {state.comparing}; {done}"
    behind = "" if state.behind is None else f", {state.behind:.0f} s behind"
    return f"serial {state.serial} of {max(state.serial, state.newest)}{behind}; {done}" + (
        f", {state.failed:,} failed" if state.failed else ""
    )
