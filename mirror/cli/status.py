"""`mirror status`: what is held, what it saved, and how the upstreams are.

The running mirror is asked first; when none answers, the catalog is read, which knows what is held and how the
counters stood, but nothing of upstreams.
"""

import json
from pathlib import Path
from typing import Any

import click

from mirror.cli.opening import catalog_in, shared_options


@click.command("status", short_help="Show what is held and what it saved.")
@shared_options
@click.option("--url", metavar="URL", help="Ask the mirror at this address, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(config: Path | None, data_dir: Path | None, url: str | None, as_json: bool) -> int:
    """Show what is held (projects, files, bytes), how often it helped, and the state of each upstream.

    Exit status 0 when the mirror answered or its catalog could be read, 1 when not.
    """
    from mirror.cli.report import show, understood
    from mirror.cli.running import ask_address, ask_url
    from mirror.config import load
    from mirror.errors import Unavailable

    if url:
        answers = [ask_url(url, "/-/status")]
    else:
        settings = load(config, {"data_dir": data_dir} if data_dir else None)
        answers = [ask_address(address, "/-/status") for address in settings.listen]
    status = next((answer for answer in answers if understood(answer)), None)
    if status is None:
        if url:
            raise Unavailable(f"No mirror answers at {url}.")
        status = _stored(settings.catalog_file)
    report = understood(status)
    if as_json or report is None:
        click.echo(json.dumps(status, indent=2))
    else:
        show(report)
    return 0


def _stored(catalog_file: Path) -> dict[str, Any]:
    """The same from the catalog; zeros when there is none yet."""
    import asyncio

    status: dict[str, Any] = {"running": False, "projects": 0, "files": 0, "bytes": 0, "hits": {}, "upstreams": []}
    return status | (asyncio.run(_totals(catalog_file)) if catalog_file.exists() else {})


async def _totals(path: Path) -> dict[str, Any]:
    from mirror import __version__
    from mirror.telemetry.metrics import Metrics
    from mirror.telemetry.statistics import Statistics

    async with catalog_in(path) as catalog:
        files, size = await catalog.files.totals()
        projects = sum((await catalog.pages.totals()).values())
        saved = await Statistics(catalog, Metrics(__version__)).totals()
        return {"projects": projects, "files": files, "bytes": size, **saved}
