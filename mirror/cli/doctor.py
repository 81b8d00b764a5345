"""`mirror doctor`: is an index what its clients need, and is this mirror well?"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.opening import shared_options

if TYPE_CHECKING:
    from mirror.cli.examining import Section, Wanted

WORDS = {"ok": "ok", "fails": "fails", "unknown": "cannot be checked"}
COLOURS = {"ok": "green", "fails": "red", "unknown": "yellow"}
_TOKEN_LIMIT = 4096


@click.command("doctor", short_help="Check this mirror, or any index, as its clients would.")
@click.argument("url", required=False, metavar="[URL]")
@click.option("--project", metavar="NAME", help="Look at this Python project; else at a small one.")
@click.option("--gem", metavar="NAME", help="Look at this gem; else at a small one.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE", help="A token, for reading and uploading."
)
@click.option(
    "--upload-project", metavar="NAME", help="Try uploading, as this project: its version 0.0.1 is left there."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@shared_options
def command(
    url: str | None,
    project: str | None,
    gem: str | None,
    token_file: Path | None,
    upload_project: str | None,
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
) -> int:
    """Check the index at URL (of Python, of Ruby, or both) as pip, uv, twine, gem and bundler would: one project and
    one gem of it, by about a hundred requests. Without URL: this mirror, its machine and its upstreams, and then
    its repositories in the same way.

    Says of each failure which client it hurts, and why. Exit status 0 when nothing fails, 1 when something does.
    """
    from mirror.cli.examining import Wanted
    from mirror.errors import Invalid

    if upload_project is not None and token_file is None:
        raise Invalid("Uploading takes a token: name its file with --token-file.")
    token = _token(token_file) if token_file else None
    wanted = Wanted(project=project, gem=gem, upload=upload_project, token=token)
    sections = _examined(url, wanted, config, data_dir)
    if as_json:
        _print_json(sections)
    else:
        _print(sections)
    return 1 if any(one.verdict == "fails" for section in sections for one in section.findings) else 0


def _token(path: Path) -> str:
    from mirror.errors import Invalid

    with path.open("rb") as file:
        content = file.read(_TOKEN_LIMIT).strip()
    if not content or not content.isascii() or not content.decode("ascii").isprintable():
        raise Invalid(f"{path} holds no token: it should be one line of text.")
    return content.decode("ascii")


def _examined(url: str | None, wanted: "Wanted", config: Path | None, data_dir: Path | None) -> "list[Section]":
    import asyncio

    from mirror.cli.checking import check
    from mirror.cli.examining import examine_here, examine_url, unusable
    from mirror.config import load
    from mirror.errors import ConfigError

    if url is not None:
        return asyncio.run(examine_url(url, wanted))
    try:
        settings = load(config, {"data_dir": data_dir} if data_dir else None, check)
    except ConfigError as error:
        return unusable(error)
    return asyncio.run(examine_here(settings, wanted))


def _count(sections: "list[Section]") -> dict[str, int]:
    verdicts = [one.verdict for section in sections for one in section.findings]
    return {verdict: sum(one == verdict for one in verdicts) for verdict in WORDS}


def _print_json(sections: "list[Section]") -> None:
    import msgspec

    click.echo(json.dumps({**_count(sections), "sections": msgspec.to_builtins(sections)}, indent=2))


def _print(sections: "list[Section]") -> None:
    colour = False if os.environ.get("NO_COLOR") else None  # None: only on a terminal
    for section in sections:
        click.secho(section.about, bold=True, color=colour)
        for one in section.findings:
            word = click.style(WORDS[one.verdict], fg=COLOURS[one.verdict])
            click.echo(f"  {word}  {one.name}: {one.demand}", color=colour)
            if one.seen:
                click.echo(f"      {'seen: ' if one.verdict == 'fails' else ''}{one.seen}")
            if one.verdict == "fails":
                click.echo(f"      hurts {one.hurts}")
        click.echo()
    count = _count(sections)
    click.echo(f"{count['ok']} ok, {count['fails']} fail, {count['unknown']} cannot be checked")
