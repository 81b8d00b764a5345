"""`mirror doctor`: does an index have what its clients need, and is this mirror well?"""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.options import SettingsOptions, check_settings, read_token, settings_options
from mirror.cli.output import say, say_marked
from mirror.errors import ConfigError, Invalid

if TYPE_CHECKING:
    from mirror.cli.examine import DoctorOptions, DoctorSection

WORDS = {"ok": "ok", "fails": "fails", "unknown": "cannot be checked"}
COLOURS = {"ok": "green", "fails": "red", "unknown": "yellow"}


@click.command("doctor")
@click.argument("url", required=False, metavar="[URL]")
@click.option("--project", metavar="NAME", help="Look at this Python project; default: a small one.")
@click.option("--gem", metavar="NAME", help="Look at this gem; default: a small one.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE",
    help="File with a token, for reading and uploading.",
)  # fmt: skip
@click.option(
    "--upload-project", metavar="NAME", help="Try uploading, as this project: its version 0.0.1 is left there."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@settings_options
def doctor_command(
    url: str | None, project: str | None, gem: str | None, token_file: Path | None, upload_project: str | None,
    as_json: bool, options: SettingsOptions,
) -> int:  # fmt: skip
    """Check the index at URL (of Python, of Ruby, or both) as pip, uv, twine, gem and bundler would: one project and
    one gem of it, by about a hundred requests. Without URL: this mirror, its machine and its upstreams, and then
    its repositories in the same way.

    For each failure it says which client is affected, and why. Exit status 0 when nothing fails, 1 when something does.
    """
    import msgspec

    from mirror.cli.examine import DoctorOptions

    if upload_project is not None and token_file is None:
        raise Invalid("Uploading needs a token: name its file with --token-file.")
    token = read_token(token_file) if token_file else None
    wanted = DoctorOptions(project=project, gem=gem, upload=upload_project, token=token)
    sections = _examine(url, wanted, options)
    if as_json:
        say(json.dumps({**_count(sections), "sections": msgspec.to_builtins(sections)}, indent=2))
    else:
        _print(sections)
    return 1 if _count(sections)["fails"] else 0


def _examine(url: str | None, wanted: "DoctorOptions", options: SettingsOptions) -> "list[DoctorSection]":
    from mirror.cli.examine import examine_here, examine_url, unusable_settings

    if url is not None:
        return asyncio.run(examine_url(url, wanted))
    try:
        settings = options.read(check_settings)
    except ConfigError as error:
        return unusable_settings(error)
    return asyncio.run(examine_here(settings, wanted))


def _count(sections: "list[DoctorSection]") -> dict[str, int]:
    """Return verdict → number of findings."""
    found = Counter[str](one.verdict for section in sections for one in section.findings)
    return {verdict: found[verdict] for verdict in WORDS}


def _print(sections: "list[DoctorSection]") -> None:
    colour = False if os.environ.get("NO_COLOR") else None  # None: only on a terminal
    for section in sections:
        say_marked("", section.about, bold=True, colour=colour)
        for one in section.findings:
            word = click.style(WORDS[one.verdict], fg=COLOURS[one.verdict])
            say_marked(f"  {word}  ", f"{one.name}: {one.requirement}", colour=colour)
            if one.seen:
                say(f"      {'seen: ' if one.verdict == 'fails' else ''}{one.seen}")
            if one.verdict == "fails":
                say(f"      hurts {one.hurts}")
        say()
    count = _count(sections)
    say(f"{count['ok']} ok, {count['fails']} fail, {count['unknown']} cannot be checked")
