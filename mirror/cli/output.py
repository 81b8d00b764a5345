"""What commands print: everything goes through here, so that no text of a stranger steers a terminal.

Names, reasons and errors come from upstreams and from other mirrors. An escape sequence among them could clear the
screen, rename the window or imitate an answer, and a direction mark could turn a name round.
"""

import click


def safe(text: str) -> str:
    """Return the text with escapes for everything that does not print, but for line ends and tabs."""
    return "\n".join(map(_safe_line, text.split("\n")))


def _safe_line(line: str) -> str:
    if line.isprintable():
        return line
    from mirror.telemetry.log import printable  # rarely needed

    return "\t".join(map(printable, line.split("\t")))


def say(text: str = "", *, err: bool = False) -> None:
    """Print lines to standard output, or to standard error."""
    click.echo(safe(text), err=err)


def say_marked(mark: str, text: str, *, err: bool = False, bold: bool = False, colour: bool | None = None) -> None:
    """Print lines behind a mark of ours, which may hold colours; `colour` None: only on a terminal."""
    click.echo(mark + (click.style(safe(text), bold=True) if bold else safe(text)), err=err, color=colour)


def overwrite(text: str) -> None:
    """Replace the last line on the terminal of standard error, which has to be one."""
    click.echo(f"\r\x1b[K{safe(text)}", err=True, nl=False)
