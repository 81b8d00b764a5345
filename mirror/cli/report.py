"""How `mirror status` looks: a table on a terminal, `name: value` lines elsewhere."""

import sys
from collections.abc import Mapping

import click
import msgspec
from rich.filesize import decimal


class UpstreamReport(msgspec.Struct, frozen=True):
    """One upstream, as the running mirror sees it."""

    name: str
    state: str
    """ok, down or offline."""
    last_error: str | None = None


class FollowingReport(msgspec.Struct, frozen=True):
    """How it goes to follow another mirror."""

    name: str
    serial: int
    newest: int
    behind: float | None
    """Seconds; None when that is not known."""
    failed: int = 0


class Report(msgspec.Struct, frozen=True):
    """What is shown of the answer to GET /-/status; the rest of it is for `--json`."""

    projects: int
    files: int
    bytes: int
    running: bool = True
    hits: Mapping[str, int] = {}
    """The words of X-Mirror-Cache → how many answers."""
    bytes_served: int = 0
    bytes_saved: int = 0
    """Of those served, the ones that upstream did not have to send."""
    upstreams: tuple[UpstreamReport, ...] = ()
    following: tuple[FollowingReport, ...] = ()


def understood(content: object) -> Report | None:
    """The report in a parsed answer, or None when it is not the answer of a mirror."""
    try:
        return msgspec.convert(content, Report)
    except msgspec.ValidationError:
        return None


def show(report: Report) -> None:
    """Print it to standard output."""
    if sys.stdout.isatty():
        _table(report)
        return
    for name, value in _rows(report):
        click.echo(f"{name}: {value}")
    for upstream in report.upstreams:
        click.echo(f"upstream {upstream.name}: {_state(upstream)}")
    for one in report.following:
        click.echo(f"following {one.name}: {_followed(one)}")


def _rows(report: Report) -> list[tuple[str, str]]:
    rows = [] if report.running else [("state", "not running, read from the catalog")]
    rows += [
        ("projects", f"{report.projects:,}"),
        ("files", f"{report.files:,}"),
        ("bytes held", decimal(report.bytes)),
        ("bytes served", decimal(report.bytes_served)),
        ("bytes saved", decimal(report.bytes_saved)),
    ]
    answers = sum(report.hits.values())
    return rows + [(word, f"{count:,} ({count / answers:.0%})") for word, count in report.hits.items() if count]


def _state(upstream: UpstreamReport) -> str:
    return f"{upstream.state}: {upstream.last_error}" if upstream.last_error else upstream.state


def _followed(one: FollowingReport) -> str:
    behind = "it is not known how far behind" if one.behind is None else f"{one.behind:.0f} s behind"
    return f"serial {one.serial} of {one.newest}, {behind}" + (f", {one.failed:,} failed" if one.failed else "")


def _table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for row in _rows(report):
        table.add_row(*row)
    for upstream in report.upstreams:
        table.add_row(f"upstream {upstream.name}", _state(upstream), style="green" if upstream.state == "ok" else "red")
    for one in report.following:
        table.add_row(f"following {one.name}", _followed(one), style="green" if one.behind is not None else "red")
    Console(markup=False, highlight=False).print(table)
