"""`mirror user`: people with passwords, their groups and what they have been given.

Passwords come from the terminal, or from standard input where it is none; never from an argument, which other users of
the machine can see.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.accounts import (
    audited,
    checked_name,
    day,
    grant,
    grant_options,
    grants_listed,
    grants_text,
    removal_told,
    show,
    with_accounts,
)
from mirror.cli.opening import settings_of, shared_options

if TYPE_CHECKING:
    from mirror.catalog import Accounts, User
    from mirror.config import Settings
    from mirror.model import Right


@click.group("user", short_help="Add, change, list and remove users.")
def command() -> None:
    """Users show a name and a password, or tokens that act for them.

    What they may is said by the rules in the configuration, for them or their groups, and by what they are given here.
    A running mirror notices every change by itself.
    """


_groups = click.option("--group", "groups", multiple=True, metavar="NAME", help="A group they are in; several times.")


@command.command("add")
@click.argument("name")
@_groups
@grant_options
@shared_options
def add(
    name: str,
    groups: tuple[str, ...],
    rights: "tuple[Right, ...]",
    repositories: tuple[str, ...],
    projects: tuple[str, ...],
    config: Path | None,
    data_dir: Path | None,
) -> int:
    """Add a user. The password is asked for on the terminal, or read from standard input."""
    import time

    from mirror.auth.passwords import hashed
    from mirror.catalog import User
    from mirror.errors import Conflict, Invalid

    settings = settings_of(config, data_dir)
    if checked_name(name) in settings.auth.users:
        raise Conflict(f"The configuration file has a user {name!r} already.")
    if (repositories or projects) and not rights:
        raise Invalid("--repository and --project say where a --right holds: give one.")
    user = User(
        name=name,
        password=hashed(_password()),
        groups=frozenset(map(checked_name, groups)),
        grants=(grant(settings, rights, repositories, projects),) if rights else (),
        created=time.time(),
    )
    with_accounts(settings, lambda accounts: accounts.add_user(user))
    _audited("add", user)
    return 0


@command.command("passwd")
@click.argument("name")
@shared_options
def passwd(name: str, config: Path | None, data_dir: Path | None) -> int:
    """Give a user another password. Tokens that act for the user go on working."""
    import msgspec

    from mirror.auth.passwords import hashed

    settings = settings_of(config, data_dir)
    user = _known(settings, name)
    user = msgspec.structs.replace(user, password=hashed(_password()))
    with_accounts(settings, lambda accounts: accounts.change_user(user))
    audited("user", action="passwd", user=name)
    return 0


@command.command("change")
@click.argument("name")
@_groups
@grant_options
@click.option("--no-groups", is_flag=True, help="Take the user out of all groups.")
@click.option("--no-rights", is_flag=True, help="Take back what the user was given.")
@shared_options
def change(
    name: str,
    groups: tuple[str, ...],
    rights: "tuple[Right, ...]",
    repositories: tuple[str, ...],
    projects: tuple[str, ...],
    no_groups: bool,
    no_rights: bool,
    config: Path | None,
    data_dir: Path | None,
) -> int:
    """Put a user into other groups, or give other rights: what is given here replaces what was there."""
    import msgspec

    from mirror.errors import Invalid

    settings = settings_of(config, data_dir)
    user = _known(settings, name)
    if not (groups or rights or no_groups or no_rights):
        raise Invalid("Say what to change: --group, --right, --no-groups or --no-rights.")
    if groups or no_groups:
        user = msgspec.structs.replace(user, groups=frozenset(map(checked_name, groups)))
    if rights or no_rights:
        given = (grant(settings, rights, repositories, projects),) if rights else ()
        user = msgspec.structs.replace(user, grants=given)
    with_accounts(settings, lambda accounts: accounts.change_user(user))
    _audited("change", user)
    return 0


@command.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@shared_options
def remove(names: tuple[str, ...], config: Path | None, data_dir: Path | None) -> int:
    """Remove users, with the tokens that act for them. Exit status 1 when there is none of a name."""
    settings = settings_of(config, data_dir)

    async def run(accounts: "Accounts") -> list[str]:
        return [name for name in names if await accounts.remove_user(name)]

    removed = with_accounts(settings, run)
    for name in removed:
        audited("user", action="remove", user=name)
    return removal_told(names, removed, settings.auth.users, _unknown)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@shared_options
def list_users(as_json: bool, config: Path | None, data_dir: Path | None) -> int:
    """List the users with their groups and what they were given."""
    from mirror.auth import users_of

    settings = settings_of(config, data_dir)
    in_file = users_of(settings.auth)
    users = in_file + with_accounts(settings, lambda accounts: accounts.users())
    if as_json:
        click.echo(json.dumps([_described(user, file=user in in_file) for user in users], indent=2))
        return 0
    rows = [
        (user.name, ", ".join(sorted(user.groups)) or "-", grants_text(user.grants) or "-", day(user.created or None))
        for user in users
    ]
    show(("name", "groups", "rights", "added"), rows)
    return 0


@command.command("hash")
def hash_password() -> int:
    """Print what the configuration file keeps of a password (auth.users.NAME.password_hash). Changes nothing."""
    from mirror.auth.passwords import hashed

    click.echo(hashed(_password()))
    return 0


def _password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return password
    return sys.stdin.readline(10_000).rstrip("\r\n")


def _known(settings: "Settings", name: str) -> "User":
    from mirror.errors import Invalid

    if name in settings.auth.users:
        raise Invalid(f"{name} stands in the configuration file: change it there.")
    user = with_accounts(settings, lambda accounts: accounts.user(name))
    if user is None:
        raise Invalid(_unknown(name))
    return user


def _unknown(name: str) -> str:
    return f"There is no user {name!r}."


def _audited(action: str, user: "User") -> None:
    groups = ", ".join(sorted(user.groups))
    audited("user", action=action, user=user.name, groups=groups or None, rights=grants_text(user.grants) or None)


def _described(user: "User", file: bool) -> dict[str, object]:
    return {
        "name": user.name,
        "groups": sorted(user.groups),
        "grants": grants_listed(user.grants),
        "created": user.created or None,
        "kept_in": "file" if file else "catalog",
    }
