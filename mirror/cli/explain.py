"""`mirror explain`: why a project looks as it does.

The running mirror is asked; when none answers, the answer is worked out from the store, as if offline.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from mirror.cli.ask import MirrorResponse, get_from_address, get_from_url, json_from_url
from mirror.cli.options import SettingsOptions, repository_option, settings_options
from mirror.cli.output import say
from mirror.errors import Forbidden, Invalid, NotFound, Offline, Unavailable

if TYPE_CHECKING:
    from mirror.config import Settings

TIMEOUT_SECONDS = 60.0
"""How long the mirror may take: it may have to ask an upstream."""


@click.command("explain")
@click.argument("name")
@click.argument("version", required=False)
@repository_option
@click.option("--url", metavar="URL", help="Ask the mirror at this address, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
@settings_options
def explain_command(
    name: str, version: str | None, repository: str | None, url: str | None, as_json: bool, options: SettingsOptions
) -> int:
    """Explain where a project comes from, and what policy decides about each of its files, now and later.

    NAME==VERSION asks Python repositories only; NAME VERSION asks all, unless --repository names one.
    """
    from mirror.service.ecosystems import ECOSYSTEMS

    name, operator, pinned = name.partition("==")
    if operator and (version or not pinned):
        raise Invalid("Write it as NAME, NAME VERSION or NAME==VERSION.")
    version = pinned or version
    settings = options.load()
    formats = _formats(settings, url)
    chosen = [
        one for one, format in formats.items()
        if repository in (None, one) and not (operator and ECOSYSTEMS[format].pin_operator != operator)
    ]  # fmt: skip
    if not chosen:
        raise Invalid(f"No repository fits: there are {', '.join(formats)}.")
    found = _from_mirror(settings, url, chosen, name, version)
    if found is None:
        if url:
            raise Unavailable(f"No mirror answers at {url}.")
        found = _from_store(settings, chosen, name, version)
    if not found:
        raise NotFound(f"Nothing is known about {name!r} in {', '.join(chosen)}.")
    if as_json:
        say(json.dumps(found, indent=2))
    else:
        say("\n\n".join("\n".join(one["lines"]) for one in found))
    return 0


def _formats(settings: "Settings", url: str | None) -> dict[str, str]:
    """Return repository → format of the mirror that is asked."""
    if not url:
        return {name: one.format for name, one in settings.repositories.items()}
    status = json_from_url(url, "/-/status")
    if status is None:
        raise Unavailable(f"No mirror answers at {url}.")
    return {name: one["format"] for name, one in status.get("repositories", {}).items()}


def _from_mirror(
    settings: "Settings", url: str | None, repositories: list[str], name: str, version: str | None
) -> list[dict[str, Any]] | None:
    """Return the running mirror's explanation for each repository that knows the project; None when none runs."""
    found = []
    for repository in repositories:
        path = "/-/explain/" + "/".join(quote(one, safe="") for one in (repository, name, version) if one)
        response = _get(settings, url, path)
        if response is None:
            return None
        if response.status == 200:
            found.append(json.loads(response.body))
        elif response.status in (401, 403):
            raise Forbidden(response.body.decode(errors="replace").strip())
        elif response.status >= 500:
            raise Unavailable(response.body.decode(errors="replace").strip())
    return found


def _get(settings: "Settings", url: str | None, path: str) -> MirrorResponse | None:
    if url:
        return get_from_url(url, path, TIMEOUT_SECONDS)
    responses = (get_from_address(address, path, TIMEOUT_SECONDS) for address in settings.listen)
    return next((response for response in responses if response is not None), None)


def _from_store(settings: "Settings", repositories: list[str], name: str, version: str | None) -> list[dict[str, Any]]:
    """Return the explanations that the store alone gives."""
    import msgspec

    from mirror.api.explain import explain_project
    from mirror.service.directory import has_catalog
    from mirror.service.open import Mode, open_mirror

    if not has_catalog(settings):
        return []

    async def run() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with open_mirror(settings.model_copy(update={"offline": True}), Mode.ALONE) as opened:
            mirror = await opened.mirror()
            for repository in repositories:
                try:
                    explanation = await explain_project(
                        mirror.repositories[repository], mirror.catalog.files, name, version, mirror.clock()
                    )
                except (NotFound, Offline, Invalid):
                    continue
                found.append(msgspec.to_builtins(explanation))
        return found

    return asyncio.run(run())
