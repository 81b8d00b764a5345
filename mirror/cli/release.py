"""`mirror release`: let another source answer for a name that its owner has no longer, also beside a running mirror."""

import asyncio
from typing import TYPE_CHECKING

import click

from mirror.cli.options import SettingsOptions, audit_change, repository_option, settings_options
from mirror.cli.output import say
from mirror.errors import Invalid, NotFound

if TYPE_CHECKING:
    from mirror.catalog import Catalog
    from mirror.config import Settings


@click.command("release")
@click.argument("name")
@repository_option
@settings_options
def release_command(name: str, repository: str | None, options: SettingsOptions) -> int:
    """Give up the name of a project: the next source in the settings may answer for it from now on.

    A name belongs to the first source that ever had it, also after its last file was deleted, so that no one else can
    take it. A source that has something new under the name later owns it again.
    """
    settings = options.load()
    if repository is not None and repository not in settings.repositories:
        raise Invalid(f"--repository {repository}: none of {', '.join(settings.repositories)}.")
    return asyncio.run(_release(settings, name, repository))


async def _release(settings: "Settings", name: str, repository: str | None) -> int:
    from mirror.service.ecosystems import ECOSYSTEMS
    from mirror.service.open import Mode, open_mirror

    async with open_mirror(settings, Mode.BESIDE) as opened:
        owned = {}
        for one in [repository] if repository is not None else settings.repositories:
            project = ECOSYSTEMS[settings.repositories[one].format].format.canonical(name)
            if owners := await _owners(settings, opened.catalog, one, project):
                owned[one] = project, owners
        if not owned:
            raise NotFound(f"{name} belongs to no source here that others come after: there is nothing to release.")
        if len(owned) > 1:
            raise Invalid(f"{name} belongs to sources in {', '.join(owned)}: name one with --repository.")
        ((one, (project, owners)),) = owned.items()
        if any(not row.upload.deleted for row in await opened.catalog.uploads.of_project(one, project)):
            raise Invalid(f"{name} has uploaded files in {one}: delete them first.")
        serial = await opened.catalog.claims.release(one, project, opened.store.clock())
        opened.store.changes.advance()
        await opened.store.journal.wait_until_noticed(one)
        audit_change("release", serial, repository=one, project=project)
        say(f"released: {project} in {one} no longer belongs to {', '.join(owners)}")
    return 0


async def _owners(settings: "Settings", catalog: "Catalog", repository: str, project: str) -> list[str]:
    """Return the sources that keep a name from those after them, for people."""
    from mirror.index.source import name_of

    upstreams = {name_of(one.url, one.username): one.name for one in settings.repositories[repository].upstreams[:-1]}
    owners = await catalog.claims.of(repository, project, upstreams)
    uploads = ["our uploads"] if project in await catalog.claims.former(repository) else []
    return uploads + [upstreams[one] for one in upstreams if one in owners]
