"""`mirror token`: create, list and revoke the secrets that stand for a machine or a person.

A token is printed once, alone on standard output, so that a script can capture it; only its digest is kept. It is never
given as an argument, where other users of the machine would see it.
"""

import json
import math
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from mirror.cli.accounts import (
    GrantOptions,
    checked_name,
    date_text,
    grant_options,
    grants_json,
    grants_text,
    print_table,
    remove_accounts,
    with_accounts,
)
from mirror.cli.options import SettingsOptions, audit_change, settings_options
from mirror.cli.output import say
from mirror.errors import Invalid

if TYPE_CHECKING:
    from mirror.catalog import Accounts, Token


@click.group("token")
def token_command() -> None:
    """Manage tokens, with which clients upload, and read what is not for everyone.

    They work as the password of the user __token__ (or of any), as `Authorization: Bearer`, and as a RubyGems key. A
    running mirror notices every change by itself.
    """


@token_command.command("create")
@click.option("--name", default="", help="Its name here; default: a random one.")
@click.option("--user", default="", help="The user it acts for, with at most their rights; default: none.")
@grant_options
@click.option("--expires", default="forever", metavar="DURATION", help="How long it works: 90d, 12h, forever.")
@click.option("--for-file", is_flag=True, help="Store nothing: print a table for the configuration file instead.")
@settings_options
def create_command(
    name: str, user: str, granted: GrantOptions, expires: str, for_file: bool, options: SettingsOptions
) -> int:
    """Create a token and print it, once.

    Without --right it may read and upload, where --project says what: names, patterns, or '*' for every project.
    Without either it may only read.
    """
    from mirror.auth import digest, new_token
    from mirror.catalog import Token
    from mirror.config.values import seconds

    settings = options.load()
    name = checked_name(name or f"token-{secrets.token_hex(3)}")
    try:
        lifetime = seconds(expires)
    except ValueError as error:
        raise Invalid(f"--expires {error}.") from None
    secret = new_token()
    everything = not granted.projects
    if not granted.rights:
        granted = granted._replace(rights=("read",) if everything else ("read", "upload"))
        if everything:
            say("It may only read: to upload, say --project NAME, or --project '*' for every project.", err=True)
    elif everything and set(granted.rights) != {"read"}:
        say("It is for every project: --project NAME limits it, and --project '*' says so.", err=True)
    grants = (granted.grant(settings),)

    def made(now: float) -> Token:
        expires = None if math.isinf(lifetime) else now + lifetime
        return Token(name=name, sha256=digest(secret), owner=user, grants=grants, created=now, expires=expires)

    if for_file:
        say(_configuration(made(time.time())), err=True)
    else:
        if name in settings.auth.tokens:
            raise Invalid(f"The configuration file already has a token {name!r}.")

        async def add(accounts: "Accounts", now: float) -> None:
            if user and user not in settings.auth.users and await accounts.user(user) is None:
                raise Invalid(f"There is no user {user!r}: create one with `mirror user add {user}`.")
            await accounts.add_token(made(now))

        with_accounts(settings, add)
        audit_change("token", action="create", token=name, user=user or None, rights=grants_text(grants))
    say(f"Token {name}: {grants_text(grants)}. It is shown only now:", err=True)
    say(secret)
    return 0


def _configuration(token: "Token") -> str:
    """Return the table of the configuration file that stands for a token."""
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


@token_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@settings_options
def list_command(as_json: bool, options: SettingsOptions) -> int:
    """List the tokens with their users, rights and expiry, and when they were last used."""
    from mirror.auth import tokens_of

    settings = options.load()
    in_file = tokens_of(settings.auth)
    tokens = in_file + with_accounts(settings, lambda accounts, _: accounts.tokens())
    if as_json:
        say(json.dumps([_token_json(token, in_file=token in in_file) for token in tokens], indent=2))
        return 0
    rows = [
        (token.name, token.owner or "-", grants_text(token.grants), date_text(token.expires), date_text(token.used))
        for token in tokens
    ]
    print_table(("name", "user", "rights", "expires", "last used"), rows)
    return 0


def _token_json(token: "Token", in_file: bool) -> dict[str, object]:
    return {
        "name": token.name,
        "user": token.owner or None,
        "grants": grants_json(token.grants),
        "created": token.created or None,
        "expires": token.expires,
        "used": token.used,
        "kept_in": "file" if in_file else "catalog",
    }


@token_command.command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@settings_options
def revoke_command(names: tuple[str, ...], options: SettingsOptions) -> int:
    """Revoke tokens by their names (not by the secrets). Exit status 1 when a name is unknown."""
    settings = options.load()
    return remove_accounts(
        settings, "token", "revoke", names, lambda accounts, name: accounts.remove_token(name), settings.auth.tokens,
        _unknown_token,
    )  # fmt: skip


def _unknown_token(name: str) -> str:
    # Not repeated when it looks like a secret: standard error often ends in a log.
    shown = "That name" if name.startswith("mirror_") else repr(name)
    return f"{shown} is no token: `mirror token list` lists them."
