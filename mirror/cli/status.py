"""`mirror status`: what is held and how the upstreams are. `mirror report`: what upstream has removed.

For the status the running mirror is asked; when none answers, the catalog is read, which has the totals and the
counters but not the state of upstreams. The report is always read from the catalog. Both look like a table on a
terminal, and like `name: value` lines elsewhere.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.filesize import decimal

from mirror.cli.ask import json_from_address, json_from_url
from mirror.cli.options import SettingsOptions, settings_options
from mirror.cli.output import safe, say
from mirror.errors import Unavailable

if TYPE_CHECKING:
    from mirror.catalog import RemovalReport
    from mirror.config import Settings

REMOVED_WHY = {
    "file": "upstream no longer lists it",
    "project": "upstream no longer has the project",
    "quarantine": "upstream has put the project in quarantine",
}


class UpstreamLine(msgspec.Struct, frozen=True):
    """The state of one upstream, as the running mirror sees it."""

    name: str
    state: str
    """ok, down or offline."""
    last_error: str | None = None


class FollowingLine(msgspec.Struct, frozen=True):
    """The position of this mirror in following another one."""

    name: str
    serial: int
    newest: int
    behind: float | None
    """Seconds; None when that is not known."""
    failed: int = 0


class StatusReport(msgspec.Struct, frozen=True):
    """The part of the response to GET /-/status that is shown; the rest is for `--json`."""

    projects: int
    files: int
    bytes: int
    running: bool = True
    hits: Mapping[str, int] = {}
    """Value of X-Mirror-Cache → number of answers."""
    bytes_served: int = 0
    bytes_saved: int = 0
    """Served bytes that did not have to come from upstream."""
    upstreams: tuple[UpstreamLine, ...] = ()
    following: tuple[FollowingLine, ...] = ()


@click.command("status")
@settings_options
@click.option("--url", metavar="URL", help="Ask the mirror at this address, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def status_command(options: SettingsOptions, url: str | None, as_json: bool) -> int:
    """Show what is held (projects, files, bytes), how many requests it answered, and the state of each upstream.

    Exit status 0 when the mirror answered or its catalog could be read, 1 when not.
    """
    if url:
        answers = [json_from_url(url, "/-/status")]
    else:
        settings = options.read()
        answers = [json_from_address(address, "/-/status") for address in settings.listen]
    status = next((answer for answer in answers if _parse(answer)), None)
    if status is None:
        if url:
            raise Unavailable(f"No mirror answers at {url}.")
        status = _status_from_catalog(settings)
    parsed = _parse(status)
    if as_json or parsed is None:
        say(json.dumps(status, indent=2))
    else:
        _print_status(parsed)
    if not url:
        _print_warning(settings.data_dir)
    return 0


def _parse(content: object) -> StatusReport | None:
    """Return the status in a parsed answer; None when it is not the answer of a mirror."""
    try:
        return msgspec.convert(content, StatusReport)
    except msgspec.ValidationError:
        return None


def _status_from_catalog(settings: "Settings") -> dict[str, Any]:
    """Return the status that the catalog knows; zeros when there is no catalog yet."""
    from mirror.service.directory import has_catalog

    status: dict[str, Any] = {"running": False, "projects": 0, "files": 0, "bytes": 0, "hits": {}, "upstreams": []}
    return status | (asyncio.run(_totals(settings)) if has_catalog(settings) else {})


async def _totals(settings: "Settings") -> dict[str, Any]:
    from mirror.service.open import Mode, open_mirror
    from mirror.telemetry.statistics import totals_of

    async with open_mirror(settings, Mode.READ_ONLY) as opened:
        catalog = opened.catalog
        files, size = await catalog.files.totals()
        projects = sum((await catalog.pages.totals()).values())
        return {"projects": projects, "files": files, "bytes": size, **totals_of(await catalog.counters.all())}


def _print_warning(data_dir: Path) -> None:
    from mirror.service.directory import open_to_others

    if open_to_others(data_dir):
        say(f"Others on this machine may look into {data_dir}: `chmod -R go= {data_dir}` ends that.", err=True)


def _print_status(status: StatusReport) -> None:
    if sys.stdout.isatty():
        _print_table(status)
        return
    for name, value in _rows(status):
        say(f"{name}: {value}")
    for upstream in status.upstreams:
        say(f"upstream {upstream.name}: {_upstream_text(upstream)}")
    for one in status.following:
        say(f"following {one.name}: {_following_text(one)}")


def _rows(status: StatusReport) -> list[tuple[str, str]]:
    rows = [] if status.running else [("state", "not running, read from the catalog")]
    rows += [
        ("projects", f"{status.projects:,}"),
        ("files", f"{status.files:,}"),
        ("bytes held", decimal(status.bytes)),
        ("bytes served", decimal(status.bytes_served)),
        ("bytes saved", decimal(status.bytes_saved)),
    ]
    answers = sum(status.hits.values())
    return rows + [(word, f"{count:,} ({count / answers:.0%})") for word, count in status.hits.items() if count]


def _upstream_text(upstream: UpstreamLine) -> str:
    return f"{upstream.state}: {upstream.last_error}" if upstream.last_error else upstream.state


def _following_text(one: FollowingLine) -> str:
    behind = "not known how far behind" if one.behind is None else f"{one.behind:.0f} s behind"
    return f"serial {one.serial} of {one.newest}, {behind}" + (f", {one.failed:,} failed" if one.failed else "")


def _print_table(status: StatusReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for row in _rows(status):
        table.add_row(*map(safe, row))
    for upstream in status.upstreams:
        style = "green" if upstream.state == "ok" else "red"
        table.add_row(safe(f"upstream {upstream.name}"), safe(_upstream_text(upstream)), style=style)
    for one in status.following:
        style = "green" if one.behind is not None else "red"
        table.add_row(safe(f"following {one.name}"), safe(_following_text(one)), style=style)
    Console(markup=False, highlight=False).print(table)


# mirror report


@click.group("report")
def report_command() -> None:
    """List what upstream has removed, and who has fetched it since."""


@report_command.command("removed")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@settings_options
def removed_command(as_json: bool, options: SettingsOptions) -> int:
    """List the files that are held here and that upstream no longer lists, and who has fetched them since."""
    from mirror.service.directory import has_catalog

    settings = options.load()
    found = asyncio.run(_removed_files(settings)) if has_catalog(settings) else []
    if as_json:
        say(json.dumps(msgspec.to_builtins(found), indent=2))
        return 0
    for one in found:
        why = REMOVED_WHY[one.file.why]
        say(f"{one.file.filename}: {why}, noticed {_time_text(one.file.since)} ({one.file.source})")
        for fetch in one.fetches:
            times = "once" if fetch.fetches == 1 else f"{fetch.fetches} times"
            say(f"  fetched since by {fetch.who} from {fetch.client}, {times}, last {_time_text(fetch.last)}")
        if not one.fetches:
            say("  not fetched since")
    if not found:
        say("Nothing that is held here has been removed upstream.")
    return 0


async def _removed_files(settings: "Settings") -> "list[RemovalReport]":
    from mirror.service.open import Mode, open_mirror

    async with open_mirror(settings, Mode.READ_ONLY) as opened:
        return await opened.catalog.removed.report()


def _time_text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
