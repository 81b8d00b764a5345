"""What `mirror token` and `mirror user` share: the catalog's accounts, opened for one change beside a running server.

The server notices a change by itself. Every change leaves an audit line on standard error.
"""

import os
import pwd
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from mirror.cli.opening import catalog_in

if TYPE_CHECKING:
    from mirror.catalog import Accounts
    from mirror.config import Settings
    from mirror.model import Grant, Right

T = TypeVar("T")

RIGHTS = ("read", "upload", "yank", "admin")


def grant_options(command: Callable[..., T]) -> Callable[..., T]:
    """--right, --repository and --project."""
    right = click.option(
        "--right", "rights", multiple=True, type=click.Choice(RIGHTS), help="A right; can be given several times."
    )
    repository = click.option(
        "--repository", "repositories", multiple=True, metavar="NAME",
        help="Where it holds: a name or pattern; without it, everywhere.",
    )  # fmt: skip
    project = click.option(
        "--project", "projects", multiple=True, metavar="PATTERN",
        help="On what, such as 'acme-*'; without it, on everything.",
    )  # fmt: skip
    return right(repository(project(command)))


def with_accounts(settings: "Settings", work: "Callable[[Accounts], Awaitable[T]]") -> T:
    """The result of `work` on the accounts of the catalog, which is made when there is none yet."""
    import asyncio

    async def run() -> T:
        async with catalog_in(settings.catalog_file) as catalog:
            return await work(catalog.accounts)

    return asyncio.run(run())


def grant(
    settings: "Settings", rights: "Sequence[Right]", repositories: Sequence[str], projects: Sequence[str]
) -> "Grant":
    """What the three options say. Raises Invalid for a repository that there is not, and for a pattern that is none."""
    import fnmatch
    import re

    from mirror.errors import Invalid
    from mirror.model import Grant

    for pattern in repositories:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in settings.repositories):
            raise Invalid(f"--repository {pattern}: none of {', '.join(settings.repositories)}.")
    for pattern in projects:
        if not re.fullmatch(r"[A-Za-z0-9._*?-]{1,200}", pattern):
            raise Invalid(f"--project {pattern!r}: should be a name or a pattern such as 'acme-*'.")
    return Grant(
        rights=frozenset(rights), repositories=tuple(repositories) or ("*",), projects=tuple(projects) or ("*",)
    )


def checked_name(name: str) -> str:
    """A name that a user or token may have. Raises Invalid."""
    from mirror.config import user_name
    from mirror.errors import Invalid

    try:
        return user_name(name)
    except ValueError as error:
        raise Invalid(f"{name!r} {error}.") from None


def caller() -> str:
    """Whoever runs this command, for records."""
    try:
        who = pwd.getpwuid(os.getuid()).pw_name  # not from the environment, which says whatever its owner likes
    except KeyError:
        who = f"uid {os.getuid()}"
    return f"{who} (command line)"


def audited(what: str, serial: int | None = None, **facts: str | None) -> None:
    """Leave an audit line: a change by whoever runs this command."""
    from mirror.auth.audit import audit

    audit(what, who=caller(), client="local", serial=serial, **facts)


def grants_text(grants: "Sequence[Grant]") -> str:
    """Grants for people: `read, upload on acme-* in pypi`."""
    return "; ".join(
        ", ".join(right for right in RIGHTS if right in one.rights)
        + (f" on {', '.join(one.projects)}" if one.projects != ("*",) else "")
        + (f" in {', '.join(one.repositories)}" if one.repositories != ("*",) else "")
        for one in grants
    )


def grants_listed(grants: "Sequence[Grant]") -> list[dict[str, object]]:
    """The same for JSON."""
    return [
        {"rights": sorted(one.rights), "repositories": one.repositories, "projects": one.projects} for one in grants
    ]


def removal_told(
    names: Sequence[str], removed: Sequence[str], in_file: Container[str], unknown: Callable[[str], str]
) -> int:
    """Say of each name why it was not removed, `unknown` of one that is nowhere; the exit status of it all."""
    for name in names:
        if name in in_file:
            click.echo(f"mirror: {name} stands in the configuration file: remove it there.", err=True)
        elif name not in removed:
            click.echo(f"mirror: {unknown(name)}", err=True)
    return 0 if len(removed) == len(names) else 1


def day(moment: float | None) -> str:
    """A moment as a date with minutes, in UTC; `-` for none."""
    import time

    return "-" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment))


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; tab-separated lines without a header elsewhere."""
    import sys

    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
