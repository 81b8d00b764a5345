"""`mirror verify`: read again what is held, and mend what is damaged."""

from pathlib import Path

import click

from mirror.cli.opening import settings_of, shared_options


@click.command("verify", short_help="Re-read what is held, and fetch damaged files again.")
@shared_options
@click.option("--rate", metavar="SIZE", help="Read at most so many bytes a second; default: as fast as the disk goes.")
def command(config: Path | None, data_dir: Path | None, rate: str | None) -> int:
    """Compare every held file with its digest. What is damaged is moved to `damaged/` and fetched again.

    A mirror may be serving from the store. Exit status 1 when something could not be mended.
    """
    import asyncio
    import logging
    import sys

    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import Progress

    from mirror.config.values import size
    from mirror.errors import Invalid
    from mirror.service.jobs import verifier
    from mirror.service.open import Mode, open_mirror

    logging.getLogger("mirror").setLevel(logging.CRITICAL)  # each fault is told below, with how it ended
    settings = settings_of(config, data_dir)
    try:
        pace = size(rate) if rate is not None else None
    except ValueError as error:
        raise Invalid(f"--rate {rate}: {error}.") from None

    async def run() -> int:
        console = Console(stderr=True)
        found = unmended = blobs = read = 0
        async with open_mirror(settings, Mode.BESIDE) as opened:
            mirror = await opened.mirror()
            _, total = await opened.catalog.files.totals()
            with Progress(console=console, disable=not sys.stderr.isatty()) as progress:
                task = progress.add_task("reading", total=total)
                async for state in verifier(mirror, opened.store, pace).verify():
                    blobs, read = state.blobs, state.bytes
                    progress.update(task, completed=min(read, total))
                    if (fault := state.fault) is not None:
                        found += 1
                        unmended += not fault.mended and bool(fault.names or fault.ours)
                        what = "missing" if fault.missing else "damaged"
                        end = "fetched again" if fault.mended else f"not mended: {fault.reason}"
                        click.echo(f"{what}: {', '.join(fault.names) or fault.digest}: {end}")
        click.echo(f"{blobs} blobs, {decimal(read)} read; {found} bad, {unmended} not mended")
        return 1 if unmended else 0

    return asyncio.run(run())
