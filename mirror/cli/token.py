"""`mirror token`: make, list and revoke the secrets that stand for a machine or a person.

A token is printed once, alone on standard output, so that a script can catch it; what is kept is its digest. It never
stands in an argument, where other users of the machine would see it.
"""

import json
from datetime import UTC, datetime
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
    from mirror.catalog import Accounts, Token
    from mirror.model import Right


@click.group("token", short_help="Make, list and revoke tokens.")
def command() -> None:
    """Tokens let clients upload, and read what is not for everyone.

    They work as the password of the user __token__ (or of any), as `Authorization: Bearer`, and as a RubyGems key. A
    running mirror notices every change by itself.
    """


@command.command("create")
@click.option("--name", default="", help="How it is called here; by default something random.")
@click.option("--user", default="", help="Whom it acts for, with at most their rights; without it, for itself.")
@grant_options
@click.option("--expires", default="forever", metavar="DURATION", help="How long it works: 90d, 12h, forever.")
@click.option("--for-file", is_flag=True, help="Keep nothing: print a table for the configuration file instead.")
@shared_options
def create(
    name: str,
    user: str,
    rights: "tuple[Right, ...]",
    repositories: tuple[str, ...],
    projects: tuple[str, ...],
    expires: str,
    for_file: bool,
    config: Path | None,
    data_dir: Path | None,
) -> int:
    """Make a token and print it, once. Without --right it may read and upload."""
    import math
    import secrets
    import time

    from mirror.auth import digest, new_token
    from mirror.catalog import Token
    from mirror.config.values import seconds
    from mirror.errors import Invalid

    settings = settings_of(config, data_dir)
    name = checked_name(name or f"token-{secrets.token_hex(3)}")
    try:
        lasting = seconds(expires)
    except ValueError as error:
        raise Invalid(f"--expires {error}.") from None
    secret, now = new_token(), time.time()
    token = Token(
        name=name,
        sha256=digest(secret),
        owner=user,
        grants=(grant(settings, rights or ("read", "upload"), repositories, projects),),
        created=now,
        expires=None if math.isinf(lasting) else now + lasting,
    )
    if for_file:
        click.echo(_table(token), err=True)
    else:
        if name in settings.auth.tokens:
            raise Invalid(f"The configuration file has a token {name!r} already.")

        async def add(accounts: "Accounts") -> None:
            if user and user not in settings.auth.users and await accounts.user(user) is None:
                raise Invalid(f"There is no user {user!r}: `mirror user add {user}` makes one.")
            await accounts.add_token(token)

        with_accounts(settings, add)
        audited("token", action="create", token=name, user=user or None, rights=grants_text(token.grants))
    click.echo(f"Token {name}: {grants_text(token.grants)}. It is shown only now:", err=True)
    click.echo(secret)
    return 0


def _table(token: "Token") -> str:
    (limit,) = token.grants
    lines = [f'[auth.tokens."{token.name}"]', f'sha256 = "{token.sha256}"']
    if token.owner:
        lines.append(f'user = "{token.owner}"')
    for key, values in (
        ("rights", sorted(limit.rights)), ("repositories", limit.repositories), ("projects", limit.projects),
    ):  # fmt: skip
        lines.append(f"{key} = {json.dumps(list(values))}")
    if token.expires is not None:
        lines.append(f"expires = {datetime.fromtimestamp(int(token.expires), UTC).isoformat()}")
    return "\n".join(lines)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@shared_options
def list_tokens(as_json: bool, config: Path | None, data_dir: Path | None) -> int:
    """List the tokens: whom they act for, what they may, until when, and when they were last used."""
    from mirror.auth import tokens_of

    settings = settings_of(config, data_dir)
    in_file = tokens_of(settings.auth)
    tokens = in_file + with_accounts(settings, lambda accounts: accounts.tokens())
    if as_json:
        click.echo(json.dumps([_described(token, file=token in in_file) for token in tokens], indent=2))
        return 0
    rows = [
        (token.name, token.owner or "-", grants_text(token.grants), day(token.expires), day(token.used))
        for token in tokens
    ]
    show(("name", "user", "rights", "expires", "last used"), rows)
    return 0


def _described(token: "Token", file: bool) -> dict[str, object]:
    return {
        "name": token.name,
        "user": token.owner or None,
        "grants": grants_listed(token.grants),
        "created": token.created or None,
        "expires": token.expires,
        "used": token.used,
        "kept_in": "file" if file else "catalog",
    }


@command.command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@shared_options
def revoke(names: tuple[str, ...], config: Path | None, data_dir: Path | None) -> int:
    """Make tokens stop working, by their names (not by the secrets). Exit status 1 when there is none of a name."""
    settings = settings_of(config, data_dir)

    async def remove(accounts: "Accounts") -> list[str]:
        return [name for name in names if await accounts.remove_token(name)]

    removed = with_accounts(settings, remove)
    for name in removed:
        audited("token", action="revoke", token=name)
    return removal_told(names, removed, settings.auth.tokens, _unknown)


def _unknown(name: str) -> str:
    # Not repeated when it looks like a secret: standard error often ends in a log.
    shown = "That name" if name.startswith("mirror_") else repr(name)
    return f"{shown} is no token: `mirror token list` names them."
