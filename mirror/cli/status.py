"""`mirror status`: what is held, what it saved, and how the upstreams are.

The running mirror is asked first; when none answers, the catalog is read, which knows what is held and how the
counters stood, but nothing of upstreams.
"""

import json
import sys
from pathlib import Path
from typing import Any

import click


@click.command("status", short_help="Show what is held and what it saved.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings (TOML). [env: MIRROR_CONFIG]")
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where everything is kept.")
@click.option("--url", metavar="URL", help="Ask the mirror at this address, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(config: Path | None, data_dir: Path | None, url: str | None, as_json: bool) -> int:
    """Show what is held (projects, files, bytes), how often it helped, and the state of each upstream.

    Exit status 0 when the mirror answered or its catalog could be read, 1 when not.
    """
    from mirror.cli.running import ask_address, ask_url
    from mirror.config import load
    from mirror.errors import Unavailable

    if url:
        status = ask_url(url, "/-/status")
        if status is None:
            raise Unavailable(f"No mirror answers at {url}.")
    else:
        settings = load(config, {"data_dir": data_dir} if data_dir else None)
        answers = (ask_address(address, "/-/status") for address in settings.listen)
        status = next((answer for answer in answers if answer is not None), None)
        status = status or _stored(settings.catalog_file)
    if as_json:
        click.echo(json.dumps(status, indent=2))
    elif sys.stdout.isatty():
        _show(status)
    else:
        for name, value in _rows(status) + _upstream_rows(status):
            click.echo(f"{name}: {value}")
    return 0


def _stored(catalog_file: Path) -> dict[str, Any]:
    """The same from the catalog; zeros when there is none yet."""
    import asyncio

    status: dict[str, Any] = {"running": False, "projects": 0, "files": 0, "bytes": 0, "hits": {}, "upstreams": []}
    return status | (asyncio.run(_totals(catalog_file)) if catalog_file.exists() else {})


async def _totals(path: Path) -> dict[str, Any]:
    from mirror import __version__
    from mirror.catalog import Catalog
    from mirror.catalog.sqlite import SQLite
    from mirror.metrics import Metrics
    from mirror.statistics import Statistics

    database = SQLite(path)
    await database.open()
    catalog = Catalog(database)
    try:
        files, size = await catalog.files.totals()
        projects = sum((await catalog.pages.totals()).values())
        saved = await Statistics(catalog, Metrics(__version__)).totals()
        return {"projects": projects, "files": files, "bytes": size, **saved}
    finally:
        await catalog.close()


def _rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    from rich.filesize import decimal

    rows = [("state", "not running, read from the catalog")] if status.get("running") is False else []
    rows += [(name, f"{status.get(name, 0):,}") for name in ("projects", "files")]
    rows.append(("bytes", decimal(status.get("bytes", 0))))
    hits = status.get("hits")
    if isinstance(hits, dict) and (asked := sum(hits.values())):
        rows += [(outcome, f"{count:,} ({count / asked:.0%})") for outcome, count in hits.items() if count]
    return rows + [
        (name.replace("_", " "), decimal(value))
        for name, value in status.items()
        if name.startswith("bytes_") and isinstance(value, int)
    ]


def _upstream_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"upstream {upstream.get('name')}", str(upstream.get("state")))
        for upstream in status.get("upstreams", [])
        if isinstance(upstream, dict)
    ]


def _show(status: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for row in _rows(status):
        table.add_row(*row)
    for name, state in _upstream_rows(status):
        table.add_row(name, state, style="green" if state == "ok" else "yellow")
    Console(markup=False, highlight=False).print(table)
