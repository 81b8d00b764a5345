"""`mirror user`: people with passwords, their groups and rights; and what it shares with `mirror token`.

A running mirror notices a change by itself. Every change leaves an audit line on standard error. Passwords come from
the terminal, or from standard input when it is none; never from an argument, which other users of the machine can see.
"""

import asyncio
import fnmatch
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from mirror.cli.options import SettingsOptions, audit_change, settings_options
from mirror.cli.output import safe, say
from mirror.errors import Conflict, Invalid

if TYPE_CHECKING:
    from mirror.catalog import Accounts, User
    from mirror.config import Settings
    from mirror.model import Grant, Right

T = TypeVar("T")

RIGHTS: "tuple[Right, ...]" = ("read", "upload", "yank", "admin")
PASSWORD_CHARACTERS = 10_000


class GrantOptions(NamedTuple):
    """The values of --right, --repository and --project."""

    rights: "tuple[Right, ...]"
    repositories: tuple[str, ...]
    projects: tuple[str, ...]

    def grant(self, settings: "Settings") -> "Grant":
        """Return them as a grant. Raises Invalid for a repository that does not exist and for a wrong pattern."""
        from mirror.model import Grant

        for pattern in self.repositories:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in settings.repositories):
                raise Invalid(f"--repository {pattern}: none of {', '.join(settings.repositories)}.")
        for pattern in self.projects:
            if not re.fullmatch(r"[A-Za-z0-9._*?-]{1,200}", pattern):
                raise Invalid(f"--project {pattern!r}: should be a name or a pattern such as 'acme-*'.")
        return Grant(
            rights=frozenset(self.rights), repositories=self.repositories or ("*",), projects=self.projects or ("*",)
        )


def grant_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add --right, --repository and --project; the command gets them as `granted`, a GrantOptions."""

    @wraps(command)
    def wrapped(
        *, rights: "tuple[Right, ...]", repositories: tuple[str, ...], projects: tuple[str, ...], **rest: Any
    ) -> T:
        return command(granted=GrantOptions(rights, repositories, projects), **rest)

    right = click.option(
        "--right", "rights", multiple=True, type=click.Choice(RIGHTS), help="A right; can be repeated."
    )
    repository = click.option(
        "--repository", "repositories", multiple=True, metavar="NAME",
        help="Where it applies: a name or pattern; default: everywhere.",
    )  # fmt: skip
    project = click.option(
        "--project", "projects", multiple=True, metavar="PATTERN",
        help="To what, such as 'acme-*'; default: to everything.",
    )  # fmt: skip
    return right(repository(project(wrapped)))


def with_accounts(settings: "Settings", work: "Callable[[Accounts, float], Awaitable[T]]") -> T:
    """Return the result of `work` on the accounts of the catalog, which is created if there is none, at its time."""
    from mirror.service.open import Mode, open_mirror

    async def run() -> T:
        async with open_mirror(settings, Mode.BESIDE) as opened:
            result = await work(opened.catalog.accounts, opened.store.clock())
            opened.store.changes.advance()  # a mirror that runs looks at them with the next request
            return result

    return asyncio.run(run())


def checked_name(name: str) -> str:
    """Return the name if a user, group or token may have it. Raises Invalid."""
    from mirror.config import user_name

    try:
        return user_name(name)
    except ValueError as error:
        raise Invalid(f"{name!r} {error}.") from None


def grants_text(grants: "Sequence[Grant]") -> str:
    """Return grants for people: `read, upload on acme-* in pypi`."""
    return "; ".join(
        ", ".join(right for right in RIGHTS if right in one.rights)
        + (f" on {', '.join(one.projects)}" if one.projects != ("*",) else "")
        + (f" in {', '.join(one.repositories)}" if one.repositories != ("*",) else "")
        for one in grants
    )


def grants_json(grants: "Sequence[Grant]") -> list[dict[str, object]]:
    """Return grants for JSON."""
    return [
        {"rights": sorted(one.rights), "repositories": one.repositories, "projects": one.projects} for one in grants
    ]


def remove_accounts(
    settings: "Settings", what: str, action: str, names: Sequence[str],
    remove: "Callable[[Accounts, str], Awaitable[bool]]", in_file: Container[str], unknown: Callable[[str], str],
) -> int:  # fmt: skip
    """Remove users or tokens and print why some could not be; return the exit status.

    `action` is the word of the audit line, `in_file` has the names that the configuration file defines, and `unknown`
    returns the message for a name that does not exist.
    """

    async def work(accounts: "Accounts", now: float) -> list[str]:
        return [name for name in names if await remove(accounts, name)]

    removed = with_accounts(settings, work)
    for name in removed:
        audit_change(what, None, action=action, **{what: name})
    for name in names:
        if name in in_file:
            say(f"mirror: {name} stands in the configuration file: remove it there.", err=True)
        elif name not in removed:
            say(f"mirror: {unknown(name)}", err=True)
    return 0 if len(removed) == len(names) else 1


def date_text(moment: float | None) -> str:
    """Return a moment as a date with minutes, in UTC; `-` for none."""
    return "-" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on a terminal; tab-separated lines without a header elsewhere."""
    if not sys.stdout.isatty():
        for row in rows:
            say("\t".join(row))
        return
    from rich.console import Console  # only for a terminal
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(safe, row))
    Console(markup=False, highlight=False).print(table)


# mirror user


@click.group("user")
def user_command() -> None:
    """Manage users, who log in with a name and a password, or with tokens that act for them.

    What they may do is set by the rules in the configuration, for them or their groups, and by what they are granted
    here. A running mirror notices every change by itself.
    """


_groups = click.option("--group", "groups", multiple=True, metavar="NAME", help="A group they are in; can be repeated.")


@user_command.command("add")
@click.argument("name")
@_groups
@grant_options
@settings_options
def add_command(name: str, groups: tuple[str, ...], granted: GrantOptions, options: SettingsOptions) -> int:
    """Add a user. The password is asked for on the terminal, or read from standard input."""
    import msgspec

    from mirror.auth.passwords import hash_password
    from mirror.catalog import User

    settings = options.load()
    if checked_name(name) in settings.auth.users:
        raise Conflict(f"The configuration file already has a user {name!r}.")
    if (granted.repositories or granted.projects) and not granted.rights:
        raise Invalid("--repository and --project limit a --right: give one.")
    user = User(
        name=name,
        password=hash_password(_read_password()),
        groups=frozenset(map(checked_name, groups)),
        grants=(granted.grant(settings),) if granted.rights else (),
        created=0.0,
    )
    with_accounts(settings, lambda accounts, now: accounts.add_user(msgspec.structs.replace(user, created=now)))
    _audit_user("add", user)
    return 0


@user_command.command("passwd")
@click.argument("name")
@settings_options
def passwd_command(name: str, options: SettingsOptions) -> int:
    """Change a user's password. Tokens that act for the user continue to work."""
    import msgspec

    from mirror.auth.passwords import hash_password

    settings = options.load()
    user = _existing_user(settings, name)
    user = msgspec.structs.replace(user, password=hash_password(_read_password()))
    with_accounts(settings, lambda accounts, _: accounts.change_user(user))
    audit_change("user", action="passwd", user=name)
    return 0


@user_command.command("change")
@click.argument("name")
@_groups
@grant_options
@click.option("--no-groups", is_flag=True, help="Remove the user from all groups.")
@click.option("--no-rights", is_flag=True, help="Take back all rights that the user was granted.")
@settings_options
def change_command(
    name: str, groups: tuple[str, ...], granted: GrantOptions, no_groups: bool, no_rights: bool,
    options: SettingsOptions,
) -> int:  # fmt: skip
    """Change a user's groups or rights: what is given here replaces what was there."""
    import msgspec

    settings = options.load()
    user = _existing_user(settings, name)
    if not (groups or granted.rights or no_groups or no_rights):
        raise Invalid("Give what to change: --group, --right, --no-groups or --no-rights.")
    if groups or no_groups:
        user = msgspec.structs.replace(user, groups=frozenset(map(checked_name, groups)))
    if granted.rights or no_rights:
        user = msgspec.structs.replace(user, grants=(granted.grant(settings),) if granted.rights else ())
    with_accounts(settings, lambda accounts, _: accounts.change_user(user))
    _audit_user("change", user)
    return 0


@user_command.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@settings_options
def remove_command(names: tuple[str, ...], options: SettingsOptions) -> int:
    """Remove users, with the tokens that act for them. Exit status 1 when a name is unknown."""
    settings = options.load()
    return remove_accounts(
        settings, "user", "remove", names, lambda accounts, name: accounts.remove_user(name), settings.auth.users,
        _unknown_user,
    )  # fmt: skip


@user_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@settings_options
def list_command(as_json: bool, options: SettingsOptions) -> int:
    """List the users with their groups and what they were granted."""
    from mirror.auth import users_of

    settings = options.load()
    in_file = users_of(settings.auth)
    users = in_file + with_accounts(settings, lambda accounts, _: accounts.users())
    if as_json:
        say(json.dumps([_user_json(user, in_file=user in in_file) for user in users], indent=2))
        return 0
    rows = [
        (
            user.name, ", ".join(sorted(user.groups)) or "-", grants_text(user.grants) or "-",
            date_text(user.created or None),
        )
        for user in users
    ]  # fmt: skip
    print_table(("name", "groups", "rights", "added"), rows)
    return 0


@user_command.command("hash")
def hash_command() -> int:
    """Print the hash of a password for the configuration file (auth.users.NAME.password_hash). Changes nothing."""
    from mirror.auth.passwords import hash_password

    say(hash_password(_read_password()))
    return 0


def _read_password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return password
    return sys.stdin.readline(PASSWORD_CHARACTERS).rstrip("\r\n")


def _existing_user(settings: "Settings", name: str) -> "User":
    if name in settings.auth.users:
        raise Invalid(f"{name} stands in the configuration file: change it there.")
    user = with_accounts(settings, lambda accounts, _: accounts.user(name))
    if user is None:
        raise Invalid(_unknown_user(name))
    return user


def _unknown_user(name: str) -> str:
    return f"There is no user {name!r}."


def _audit_user(action: str, user: "User") -> None:
    groups = ", ".join(sorted(user.groups))
    audit_change("user", action=action, user=user.name, groups=groups or None, rights=grants_text(user.grants) or None)


def _user_json(user: "User", in_file: bool) -> dict[str, object]:
    return {
        "name": user.name,
        "groups": sorted(user.groups),
        "grants": grants_json(user.grants),
        "created": user.created or None,
        "kept_in": "file" if in_file else "catalog",
    }
