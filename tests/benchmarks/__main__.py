"""The command line of the benchmarks."""

import asyncio
import os
import platform
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import click

from tests.benchmarks import (
    beside,
    cold_files,
    cold_pages,
    commits,
    front,
    great_rows,
    installs,
    many_pages,
    name_list,
    node_rows,
    object_rows,
    rows,
)
from tests.benchmarks.load import WRK
from tests.benchmarks.nginx import available
from tests.benchmarks.site import Site, site
from tests.benchmarks.table import Row, markdown, text

MEASUREMENTS = {
    name: measurement
    for module in (rows, front, cold_pages, cold_files, installs, object_rows, commits, name_list)
    for name, measurement in module.MEASUREMENTS.items()
}
"""All measurements by name, in the order of the table."""
ON_DEMAND = {**great_rows.MEASUREMENTS, **many_pages.MEASUREMENTS, **node_rows.MEASUREMENTS}
"""Those that take minutes: they are run when they are named."""


def machine() -> str:
    """When, and on what."""
    model = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    version = subprocess.run([available() or "nginx", "-v"], capture_output=True, text=True, check=True).stderr
    load = "wrk" if WRK else "our own client"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({model}), Python {platform.python_version()}, "
        f"nginx {version.strip().rpartition('/')[2]}, load by {load}; "
        f"{os.getloadavg()[0]:.1f} other processes wanted to run before"
    )


async def all_rows(place: Site, names: tuple[str, ...], checkout: Path | None) -> AsyncIterator[Row]:
    """The rows beside nginx, or beside another checkout."""
    if checkout is not None:
        async for row in beside.rows(place, checkout.resolve(), names):
            yield row
        return
    for name in names or MEASUREMENTS:
        async for row in (MEASUREMENTS | ON_DEMAND)[name](place):
            yield row


async def measure(names: tuple[str, ...], quick: bool, checkout: Path | None) -> list[Row]:
    """All rows, each printed when it is there."""
    measured = []
    async with site(quick) as place:
        async for row in all_rows(place, names, checkout):
            print(text(row), flush=True)
            measured.append(row)
    return measured


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*MEASUREMENTS, *ON_DEMAND]))
@click.option("--quick", is_flag=True, help="One short round of each: to see that it works, not how fast it is.")
@click.option(
    "--beside", "checkout", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="Not nginx, but the code of another checkout stands beside this one.",
)  # fmt: skip
@click.option("--markdown", "table", is_flag=True, help="At the end, the table as the README has it.")
def main(names: tuple[str, ...], quick: bool, table: bool, checkout: Path | None) -> None:
    """Measure the mirror with nginx beside it, or another checkout."""
    if available() is None:
        raise click.ClickException("nginx is not installed; on Debian: apt-get install nginx-light")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed mirror is not compiled at each start
    where = machine()
    print(where)
    measured = asyncio.run(measure(names, quick, checkout))
    missed = [row.what for row in measured if row.met is False]
    if table:
        print(f"\n{where}\n\n{markdown(measured)}")
    print(f"\n{len(missed)} of {sum(row.met is not None for row in measured)} bounds are missed", *missed, sep="\n  ")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
