"""`mirror explain`: why a project looks as it does.

The running mirror is asked; when none answers, the same is worked out from the store, as if offline.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from mirror.cli.opening import shared_options
from mirror.cli.store import repository_option

if TYPE_CHECKING:
    from mirror.cli.running import Reply
    from mirror.config import Settings

PATIENCE = 60.0
"""Seconds that the mirror may take: it may have to ask an upstream."""


@click.command("explain", short_help="Say why a project looks as it does.")
@click.argument("name")
@click.argument("version", required=False)
@repository_option
@click.option("--url", metavar="URL", help="Ask the mirror at this address, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
@shared_options
def command(
    name: str,
    version: str | None,
    repository: str | None,
    url: str | None,
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
) -> int:
    """Say who answers for a project, and what policy makes of each of its files, now and later.

    NAME==VERSION asks Python's repositories alone; NAME VERSION all of them, unless --repository names one.
    """
    from mirror.cli.opening import settings_of
    from mirror.errors import Invalid, NotFound, Unavailable
    from mirror.service.ecosystems import ECOSYSTEMS

    name, pinned, rest = name.partition("==")
    if pinned and (version or not rest):
        raise Invalid("Write it as NAME, NAME VERSION or NAME==VERSION.")
    version = rest if pinned else version
    settings = settings_of(config, data_dir)
    formats = _formats(settings, url)
    chosen = [
        one for one, format in formats.items()
        if repository in (None, one) and not (pinned and ECOSYSTEMS[format].pin_operator != pinned)
    ]  # fmt: skip
    if not chosen:
        raise Invalid(f"No repository fits: there are {', '.join(formats)}.")
    found = _asked(settings, url, chosen, name, version)
    if found is None:
        if url:
            raise Unavailable(f"No mirror answers at {url}.")
        found = _stored(settings, chosen, name, version)
    if not found:
        raise NotFound(f"Nothing is known of {name!r} in {', '.join(chosen)}.")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n\n".join("\n".join(one["lines"]) for one in found))
    return 0


def _formats(settings: "Settings", url: str | None) -> dict[str, str]:
    """Repository → format, of the mirror that is asked."""
    from mirror.cli.running import ask_url
    from mirror.errors import Unavailable

    if not url:
        return {name: one.format for name, one in settings.repositories.items()}
    status = ask_url(url, "/-/status")
    if status is None:
        raise Unavailable(f"No mirror answers at {url}.")
    return {name: one["format"] for name, one in status.get("repositories", {}).items()}


def _asked(
    settings: "Settings", url: str | None, repositories: list[str], name: str, version: str | None
) -> list[dict[str, Any]] | None:
    """What the running mirror says, of each repository that knows the project; None when no mirror runs."""
    from mirror.errors import Forbidden, Unavailable

    found = []
    for repository in repositories:
        path = "/-/explain/" + "/".join(quote(one, safe="") for one in (repository, name, version) if one)
        reply = _reply(settings, url, path)
        if reply is None:
            return None
        if reply.status == 200:
            found.append(json.loads(reply.body))
        elif reply.status in (401, 403):
            raise Forbidden(reply.body.decode(errors="replace").strip())
        elif reply.status >= 500:
            raise Unavailable(reply.body.decode(errors="replace").strip())
    return found


def _reply(settings: "Settings", url: str | None, path: str) -> "Reply | None":
    from mirror.cli.running import reach_address, reach_url

    if url:
        return reach_url(url, path, PATIENCE)
    replies = (reach_address(address, path, PATIENCE) for address in settings.listen)
    return next((reply for reply in replies if reply is not None), None)


def _stored(settings: "Settings", repositories: list[str], name: str, version: str | None) -> list[dict[str, Any]]:
    """The same from the store."""
    import asyncio

    import msgspec

    from mirror.api.explain import explained
    from mirror.errors import Invalid, NotFound, Offline
    from mirror.service.services import working

    if not settings.catalog_file.exists():
        return []

    async def run() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with working(settings.model_copy(update={"offline": True})) as mirror:
            for repository in repositories:
                try:
                    said = await explained(
                        mirror.repositories[repository], mirror.catalog.files, name, version, mirror.clock()
                    )
                except (NotFound, Offline, Invalid):
                    continue
                found.append(msgspec.to_builtins(said))
        return found

    return asyncio.run(run())
