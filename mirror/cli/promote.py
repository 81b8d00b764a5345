"""`mirror promote`: make this mirror the home of the uploads of another one that it follows."""

import asyncio
from typing import TYPE_CHECKING

import click

from mirror.cli.follow import matching_upstreams
from mirror.cli.options import InvalidUsage, SettingsOptions, caller, settings_options
from mirror.cli.output import say

if TYPE_CHECKING:
    from mirror.config import Settings, UpstreamSettings
    from mirror.service.open import OpenMirror


@click.command("promote")
@click.argument("url")
@click.option("--project", "projects", multiple=True, metavar="PATTERN",
              help="What was uploaded there: a name or a pattern such as 'acme-*'. Can be repeated; default: "
                   "`follow_only` of the upstream.")  # fmt: skip
@click.option("--into", metavar="NAME", help="Only into this repository here, if several have it as an upstream.")
@settings_options
def promote_command(url: str, projects: tuple[str, ...], into: str | None, options: SettingsOptions) -> int:
    """Make this mirror the home of what was uploaded to the mirror at URL, which is lost.

    URL is an upstream that was followed. Its files that are held here become uploads of this mirror, and nothing is
    asked of it. The journal gets another identity, so that mirrors that follow this one compare what both hold. It
    works beside a running mirror, and can be repeated.

    Exit status 1 when a file that the other mirror listed is not here.
    """
    settings = options.load_checked()
    return asyncio.run(_promote(settings, matching_upstreams(settings, url, into), projects))


async def _promote(
    settings: "Settings", upstreams: "list[tuple[str, UpstreamSettings]]", projects: tuple[str, ...]
) -> int:
    from mirror.service.open import Mode, open_mirror

    for _, upstream in upstreams:
        if not projects and not upstream.follow_only:
            raise InvalidUsage(
                f"Say with --project what was uploaded to {upstream.name}, such as --project 'acme-*', or '*' where it"
                " had nothing else."
            )
    faults = 0
    offline = settings.model_copy(update={"offline": True})
    async with open_mirror(offline, Mode.BESIDE) as opened:
        for name, upstream in upstreams:
            faults += await _promote_one(opened, name, upstream, projects or tuple(upstream.follow_only))
        position = await opened.catalog.feed.renew()
        opened.store.changes.advance()
    say(f"the journal has the identity {position.id} now: mirrors that follow this one compare what both hold")
    return 1 if faults else 0


async def _promote_one(opened: "OpenMirror", name: str, upstream: "UpstreamSettings", patterns: tuple[str, ...]) -> int:
    from mirror.maintenance.promote import promote
    from mirror.policy import matches
    from mirror.service.ecosystems import ECOSYSTEMS

    mirror = await opened.mirror()
    source = next(one for one in mirror.cached_upstreams[name] if one.upstream.url == upstream.url)
    versions = ECOSYSTEMS[opened.settings.repositories[name].format].versions
    wanted = tuple(versions.pattern(pattern) for pattern in patterns)
    known = await opened.catalog.pages.known(source.name, "project")
    chosen = sorted(project for project in known if matches(wanted, project))
    done = await promote(source, opened.publishers[name], chosen, str(upstream.url.with_user(None)), caller())
    say(f"{name}: {done.files} files of {done.projects} projects of {upstream.name} are uploads here now")
    for fault in done.faults:
        say(f"  not here: {fault}", err=True)
    return len(done.faults)
