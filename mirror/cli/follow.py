"""`mirror follow`: keep this mirror a replica of another one, or of chosen projects of it, until interrupted.

The other mirror has to be an upstream here: what is followed is served as content of that upstream. With the settings
`follow` and `follow_only` of an upstream, `mirror serve` does the same by itself.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.options import InvalidUsage, SettingsOptions, read_token, settings_options
from mirror.cli.output import overwrite, say
from mirror.errors import Invalid, NotFound

if TYPE_CHECKING:
    from mirror.api.state import FollowState
    from mirror.config import Settings, UpstreamSettings

LINE_SECONDS = 1.0
"""Pause between two lines of progress."""


@click.command("follow")
@click.argument("url")
@click.option("--repository", metavar="NAME", help="Follow only the repository with this name there.")
@click.option("--project", "projects", multiple=True, metavar="PATTERN",
              help="Follow only these projects: a name or a pattern such as 'acme-*'. Can be repeated.")  # fmt: skip
@click.option("--into", metavar="NAME", help="Only into this repository here, if several have it as an upstream.")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE",
              help="File with a token that may read there, if the settings of the upstream have none.")  # fmt: skip
@click.option("--once", is_flag=True, help="End as soon as nothing is left to do.")
@settings_options
def follow_command(
    url: str, repository: str | None, projects: tuple[str, ...], into: str | None, token_file: Path | None,
    once: bool, options: SettingsOptions,
) -> int:  # fmt: skip
    """Follow the mirror at URL: what changes there changes here at once, and what it holds is held here.

    URL is where the other mirror answers, or one of its indexes; it has to be an upstream of a repository here. It
    continues where it last stopped; when that is longer ago than the other mirror remembers, it compares what both
    hold. It works beside a running mirror.

    Exit status 0 with --once when everything is here, 1 when something is not; 130 when interrupted.
    """
    from pydantic import SecretStr

    from mirror.runtime import event_loops

    settings = options.load_checked()
    if settings.offline:
        raise InvalidUsage("This mirror is offline: nothing can be followed.")
    upstreams = matching_upstreams(settings, url, into)
    if token_file:
        try:
            token = SecretStr(read_token(token_file))
        except Invalid as error:
            raise InvalidUsage(str(error)) from None
        upstreams = [
            (name, one if one.secret() else one.model_copy(update={"username": "__token__", "password": token}))
            for name, one in upstreams
        ]
        settings = _with_upstreams(settings, upstreams)
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        return runner.run(_follow(settings, upstreams, projects, repository, once))


def matching_upstreams(settings: "Settings", text: str, into: str | None) -> "list[tuple[str, UpstreamSettings]]":
    """Return the upstreams here that are indexes of the mirror at a URL. Raises InvalidUsage."""
    from mirror.config.values import index_url
    from mirror.service.ecosystems import ECOSYSTEMS

    try:
        url = index_url(text)
    except ValueError as error:
        raise InvalidUsage(f"{text[:200]} {error}.") from None
    if into is not None and into not in settings.repositories:
        raise InvalidUsage(f"There is no repository {into!r} here, only {', '.join(settings.repositories)}.")
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
        raise InvalidUsage(
            f"{text[:200]} is no upstream of {'the repository ' + into if into else 'any repository'} here: set"
            f' upstreams of [repositories.{name}] to ["{index.with_user(None)}"], and clients get here what is there.'
        )
    return found


def _with_upstreams(settings: "Settings", upstreams: "list[tuple[str, UpstreamSettings]]") -> "Settings":
    """Return the settings with these upstreams in place of those with the same URL."""
    changed = {(name, upstream.url): upstream for name, upstream in upstreams}
    repositories = {
        name: one.model_copy(update={"upstreams": tuple(changed.get((name, up.url), up) for up in one.upstreams)})
        for name, one in settings.repositories.items()
    }
    return settings.model_copy(update={"repositories": repositories})


async def _follow(
    settings: "Settings", upstreams: "list[tuple[str, UpstreamSettings]]", projects: tuple[str, ...],
    repository: str | None, once: bool,
) -> int:  # fmt: skip
    from mirror.airgap.sync.queue import together
    from mirror.cli.stores import follow_target
    from mirror.service.following import follower, remote_of

    followers = []
    async with follow_target(settings) as (mirror, applier):
        for name, upstream in upstreams:
            source = next(one for one in mirror.cached_upstreams[name] if one.upstream.url == upstream.url)
            remote = remote_of(mirror, name, source)
            if repository is None or (await remote.position()).repository == repository:
                one = follower(mirror, name, source, applier(name, source), projects, remote)
                one.on_change = FollowProgress(f"{name} from {source.upstream.name}")
                followers.append(one)
        if not followers:
            raise NotFound(f"There is no repository {repository!r} there that is an upstream here.")
        await together(*(one.catch_up() if once else one.run() for one in followers))
    return 1 if any(one.state.failed for one in followers) else 0


class FollowProgress:
    """Progress for people: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = ""
        self._shown_at = float("-inf")
        self._terminal = sys.stderr.isatty()

    def __call__(self, state: "FollowState") -> None:
        text = f"{self._name}: {_state_text(state)}"
        now = time.monotonic()
        done = state.behind == 0 and not state.last_error
        if text == self._shown or (not done and now - self._shown_at < LINE_SECONDS):
            return
        self._shown, self._shown_at = text, now
        if self._terminal:
            overwrite(text)
        else:
            say(text)


def _state_text(state: "FollowState") -> str:
    if state.last_error:
        return state.last_error
    done = f"{state.pages:,} pages and {state.files:,} files fetched"
    if state.comparing:
        return f"comparing what is held, at {state.comparing}; {done}"
    behind = "" if state.behind is None else f", {state.behind:.0f} s behind"
    return f"serial {state.serial} of {max(state.serial, state.newest)}{behind}; {done}" + (
        f", {state.failed:,} failed" if state.failed else ""
    )
