"""What a fuzzer is, and how it is run."""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.mutation import Mutator

CORPUS = Path(__file__).parent / "corpus"
SLOW_SECONDS = 1.5
"""Seconds of processor time that an input may cost; all inputs are small."""
SILENT_SECONDS = 30.0
"""Seconds after which an input that is still being checked has stopped everything."""
TEXT_CHARACTERS = 3000
"""Characters of an error's text that are kept: its end."""

Check = Callable[[bytes], Awaitable[bool]]
"""Checks one input, and returns whether it was understood, so that what lies behind the parser was tested too.

It raises AssertionError, or whatever the code under test should not have raised.
"""


@dataclass(frozen=True)
class Fuzzer:
    """One fuzzer."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    """Returns genuine inputs."""
    target: Callable[[], AbstractAsyncContextManager[Check]]
    """Opens what is tested."""
    words: Sequence[bytes] = ()
    """Pieces of the language that are inserted."""
    at_once: int = 1
    """Inputs that are checked at the same time: several where most of the time is spent waiting."""

    def corpus(self) -> list[bytes]:
        """Return the inputs that once found a fault."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]


@dataclass(frozen=True)
class FuzzFailure:
    """An input that did what none may do."""

    data: bytes
    text: str


@dataclass
class FuzzResult:
    """What came of many inputs."""

    failures: list[FuzzFailure]
    checked: int = 0
    understood: int = 0

    @property
    def share(self) -> float:
        """The share of the inputs that was understood."""
        return self.understood / max(1, self.checked)


def target(check: Callable[[bytes], bool]) -> Callable[[], AbstractAsyncContextManager[Check]]:
    """Return a target for code that needs nothing to be opened."""

    @asynccontextmanager
    async def opened():  # type: ignore[no-untyped-def]
        async def run(data: bytes) -> bool:
            return check(data)

        yield run

    return opened


def inputs(fuzzer: Fuzzer, count: int, seed: int) -> Iterator[bytes]:
    """Yield the corpus, then `count` mutated inputs; the same ones for the same seed."""
    kept = fuzzer.corpus()
    yield from kept
    mutator = Mutator([*fuzzer.seeds(), *kept], fuzzer.words, Random(f"{fuzzer.name} {seed}"))
    for _ in range(count):
        yield mutator.next()


async def run(
    fuzzer: Fuzzer, count: int, seed: int, report: Callable[[], None] = lambda: None, most: int = 5
) -> FuzzResult:
    """Check `count` inputs until `most` of them failed; `report` is called after each input."""
    result = FuzzResult([])
    remaining = inputs(fuzzer, count, seed)
    slow: list[bytes] = []

    async def work(check: Check, remaining: Iterator[bytes], slow: list[bytes] | None) -> None:
        for data in remaining:
            try:
                understood = await _checked(check, data, slow)
                result.understood += understood  # not `+= await`: that reads it before the others add to it
            except Exception:
                result.failures.append(FuzzFailure(data, traceback.format_exc()[-TEXT_CHARACTERS:]))
            if len(result.failures) >= most:
                return
            result.checked += 1
            report()

    async with fuzzer.target() as check:
        await asyncio.gather(*(work(check, remaining, slow) for _ in range(fuzzer.at_once)))
        # By itself: what the others cost that were checked meanwhile was counted, too.
        result.checked -= len(slow)
        await work(check, iter(slow), None)
    return result


async def _checked(check: Check, data: bytes, slow: list[bytes] | None) -> bool:
    """Check one input, within its time; where it took more, it is added to `slow`, and else fails."""
    began = time.process_time()
    async with asyncio.timeout(SILENT_SECONDS):
        understood = await check(data)
    took = time.process_time() - began
    if took >= SLOW_SECONDS and slow is not None:
        slow.append(data)
        return False
    assert took < SLOW_SECONDS, f"it took {took:.1f} s of processor time"
    return understood
