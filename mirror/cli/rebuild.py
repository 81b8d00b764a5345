"""`mirror rebuild`: make the catalog's uploads again from the files and the records beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.opening import shared_options
from mirror.cli.store import with_store

if TYPE_CHECKING:
    from mirror.config import Settings
    from mirror.index.publish import Publisher


@click.command("rebuild", short_help="Make a lost catalog's uploads again.")
@shared_options
def command(config: Path | None, data_dir: Path | None) -> int:
    """Read every upload and its record anew, and put right what the catalog says of them.

    Needed after a catalog was lost or restored from an old copy; an empty one is filled by `serve` itself. What came
    from upstreams is fetched again when it is asked for. Exit status 1 when a record or file could not be used.
    """

    async def work(settings: "Settings", writers: "Mapping[str, Publisher]") -> int:
        faults = 0
        for name, writer in writers.items():
            rebuilt = await writer.rebuild()
            click.echo(f"{name}: {rebuilt.uploads} uploads")
            for fault in rebuilt.faults:
                click.echo(f"  {fault}", err=True)
            faults += len(rebuilt.faults)
        return 1 if faults else 0

    return with_store(config, data_dir, work)
