"""The command line of the fuzzers: `python -m tests.fuzz NAME N SEED`."""

import asyncio
import hashlib
import sys
import time

import click
from rich.progress import Progress

from tests.fuzz.fuzzer import CORPUS, run
from tests.fuzz.registry import FUZZERS


@click.command()
@click.argument("name", type=click.Choice([*FUZZERS, "all"]))
@click.argument("count", type=int, default=20_000)
@click.argument("seed", type=int, default=1)
def main(name: str, count: int, seed: int) -> None:
    """Check COUNT mutated inputs; the same ones for the same SEED. What fails is kept in the corpus."""
    failed = 0
    for fuzzer in FUZZERS.values() if name == "all" else [FUZZERS[name]]:
        began = time.monotonic()
        with Progress(transient=True) as progress:
            task = progress.add_task(fuzzer.name, total=count + len(fuzzer.corpus()))
            result = asyncio.run(run(fuzzer, count, seed, lambda: progress.advance(task)))  # noqa: B023
        for failure in result.failures:
            path = CORPUS / fuzzer.name / hashlib.sha256(failure.data).hexdigest()[:12]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(failure.data)
            print(f"{path}: {failure.text}")
        took = time.monotonic() - began
        print(
            f"{fuzzer.name}: {count} inputs, seed {seed}: {len(result.failures)} failed,"
            f" {result.share:.0%} understood, {took:.0f} s"
        )
        failed += len(result.failures)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
