"""Rounds in which one process is killed or stopped while clients work with it, and what the others have to show then.

At that moment a file comes from upstream through the victim to clients of all, wheels and gems are uploaded to it one
after the other, and another process appends to the gem log as well. The number of a round decides everything by chance:
`NODES_ROUNDS=137-138` repeats one.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import aiohttp

from mirror.config.blobs import BlobsSettings
from mirror.transfer.transfer import PROMPT_END_BYTES
from tests import objects
from tests.builders import Built, gem, wheel
from tests.nodes.cluster import Download, download
from tests.nodes.gem_log import log_of_all, log_of_all_once_grown, same_of_all
from tests.nodes.workers import PAUSE_SECONDS
from tests.serving import Client, Reply
from tests.simulator import Simulator
from tests.simulator.faults import Drip
from tests.uploading import push, upload

T = TypeVar("T")

PACES = {40_000: 4_096, 1_500_000: 64 * 1024, PROMPT_END_BYTES + 500_000: 512 * 1024}
"""Sizes of files, and the bytes of them that upstream sends every 5 ms; each size takes another way to its clients."""
END_SECONDS = 0.3
"""What is struck at the end is struck up to so long after upstream has sent all of it."""
STILL_SECONDS = 5.0
"""The longest that a victim stands still: one that prepares a statement of a transaction holds up all others."""
QUICK_TO_DOUBT = """
from mirror.service import workers
from mirror.transfer import nodes
nodes.QUIET_SECONDS, nodes.SIGN_SECONDS, workers.QUICK_SECONDS = 0.2, 0.5, 0.0
import mirror.cli
mirror.cli.main()
"""
"""The command, but soon passing over a process that stands still, and always starting a killed one anew at once."""


def served(simulator: Simulator) -> dict[str, Any]:
    """What the processes serve: a repository with the simulator as its upstream, and gems of our own alone."""
    return {
        "pypi": {"format": "pypi", "upstreams": [simulator.simple_url]},
        "rubygems": {"format": "rubygems", "upstreams": []},
    }


async def is_object(blobs: objects.BlobsTable, digest: str) -> bool:
    """Whether the store has the object of a blob."""
    from mirror.blobs.objects_connect import connect

    try:
        await connect(BlobsSettings.model_validate(blobs)).head_async(f"blobs/{digest[:2]}/{digest}")
    except FileNotFoundError:
        return False
    return True


class Writer:
    """A client that uploads one file after the other, until that fails or it is told to end."""

    def __init__(self, send: Callable[[Built], Awaitable[Reply]], make: Callable[[int], Built]) -> None:
        self.answered: list[Built] = []
        self.unanswered: Built | None = None
        """What was sent last, if no success was answered to it."""
        self.ended = False
        self._send = send
        self._make = make
        self._working = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while not self.ended:
            self.unanswered = self._make(len(self.answered))
            try:
                reply = await self._send(self.unanswered)
            except (aiohttp.ClientError, ConnectionError):
                return
            if reply.status != 200:
                return
            self.answered.append(self.unanswered)
            self.unanswered = None

    async def end(self) -> None:
        """Wait for what is under way."""
        self.ended = True
        await self._working

    async def try_again(self, send: Callable[[Built], Awaitable[Reply]]) -> None:
        """Send elsewhere what was not answered, as its client does; it may be there already."""
        if self.unanswered is not None:
            reply = await send(self.unanswered)
            assert reply.status in (200, 409), reply.text
            self.answered.append(self.unanswered)


class Crowd(NamedTuple):
    """The clients of one round, each with a connection of its own."""

    fetching: Client
    """This one and the next two are clients of the victim."""
    uploading: Client
    pushing: Client
    others: Sequence[Client]
    """Clients of other processes, for what comes to them."""
    other: Client
    """One that pushes to another process meanwhile."""


class Rounds:
    """Rounds over one mirror, which go on where the one before has ended."""

    def __init__(
        self,
        simulator: Simulator,
        token: str,
        rows: Callable[[], dict[str, object]],
        is_stored: Callable[[Built], Awaitable[bool]] | None = None,
    ) -> None:
        """`rows` returns the rows of held files by their names.

        `is_stored` returns whether the store of files has one; without it, ends of files do not wait for rows.
        """
        self.counts = Counter[str]()
        """What happened, for a report."""
        self._simulator = simulator
        self._token = token
        self._rows = rows
        self._is_stored = is_stored
        self._log = b""

    async def prepare(self, clients: Sequence[Client]) -> None:
        """Make the first uploads, which take some seconds."""
        first = [self._push(clients[0], gem("first", "1.0")), self._upload(clients[0], wheel("first", "1.0"))]
        assert {reply.status for reply in await asyncio.gather(*first)} == {200}
        self._log = await log_of_all(clients)

    async def play(
        self,
        number: int,
        crowd: Crowd,
        strike: Callable[[], Awaitable[T]],
        go_on: Callable[[], bool] | None = None,
    ) -> tuple[Built, T]:
        """Have everybody work, strike, and check what the others show; the file, and what `strike` returned.

        `go_on` lets a victim go on that stood still, and returns whether it does; without it, it was killed.
        """
        try:
            return await self._play(number, crowd, strike, go_on)
        except BaseException as error:
            error.add_note(f"in round {number}, after {self.report}")
            raise

    async def _play(
        self,
        number: int,
        crowd: Crowd,
        strike: Callable[[], Awaitable[T]],
        go_on: Callable[[], bool] | None,
    ) -> tuple[Built, T]:
        chosen = random.Random(number)
        size = chosen.choice([*PACES])
        part = 0.6 if number == 0 else chosen.choice([chosen.random(), 1.0])
        alone = go_on is None and chosen.random() < 0.3  # no one follows the victim, and stores the file in its place
        built = wheel(f"wanted{number}", "1.0", size=size)
        self._simulator.heal()
        self._simulator.forget()
        self._simulator.publish(built)
        self._simulator.inject(f"*{built.filename}", Drip(PACES[size], 0.005))
        await asyncio.gather(*(one.get(f"/simple/{built.name}/") for one in (crowd.fetching, *crowd.others)))
        wheels = Writer(lambda one: self._upload(crowd.uploading, one), lambda at: wheel(f"ours{number}", f"1.{at}"))
        gems = Writer(lambda one: self._push(crowd.pushing, one), lambda at: gem(f"ours{number}", f"1.{at}"))
        rival = Writer(lambda one: self._push(crowd.other, one), lambda at: gem(f"rival{number}", f"1.{at}"))
        led = self._fetch(built, crowd.fetching)
        await self._simulator.until(lambda: self._simulator.count("GET", f"*{built.filename}") > 0)
        following = [] if alone else [self._fetch(built, one) for one in crowd.others]
        await self._simulator.until(lambda: self._simulator.bytes_sent(f"*{built.filename}") >= part * size)
        if part == 1.0:
            await asyncio.sleep(chosen.uniform(0.0, END_SECONDS))
        struck = await strike()
        loop = asyncio.get_running_loop()
        until = loop.time() + STILL_SECONDS
        waking = None if go_on is None else loop.call_at(until, go_on)
        if alone:
            await self._check_stored(built, await led)
            following = [self._fetch(built, one) for one in crowd.others]
        await self._check_files(built, await asyncio.gather(*following), 1 if go_on is None else 2)
        rival.ended = True
        await rival.end()
        assert rival.unanswered is None, "a push to a process that was left in peace failed"
        before = self._rows()
        went_on = False
        if go_on is not None and waking is not None:
            waking.cancel()
            self.counts["that held up all others"] += loop.time() > until
            wheels.ended = gems.ended = True
            went_on = go_on()
            self.counts["processes that went on"] += went_on
        await asyncio.gather(wheels.end(), gems.end())
        at_victim = await led
        assert at_victim.digest == built.sha256 if at_victim.whole else not went_on
        self.counts["files that the victim's client had whole"] += at_victim.whole
        readers = [*crowd.others, *([crowd.fetching] if went_on else [])]
        await self._check_uploads(number, wheels, readers, crowd.other)
        await self._check_log(readers, [gems, rival], crowd.other)
        after = self._rows()
        assert {name: after[name] for name in before} == before, "what was recorded has changed"
        self.counts["rounds"] += 1
        return built, struck

    def _fetch(self, built: Built, client: Client) -> "asyncio.Task[Download]":
        """Begin the download of a file."""
        path = f"packages/{built.name}/{built.filename}"
        return asyncio.create_task(download(client.url + path, client.session))

    async def _check_stored(self, built: Built, got: Download) -> None:
        """Check that what one client has whole has an object and a row, and that a row has an object."""
        held = built.filename in self._rows()
        if self._is_stored is not None:
            assert held or not got.whole
            assert not held or await self._is_stored(built)
        self.counts[f"alone: {'row' if held else 'no row'}, {'whole' if got.whole else 'broken off'}"] += 1

    async def _check_files(self, built: Built, got: Sequence[Download], patience: float) -> None:
        assert [one.whole for one in got] == [True] * len(got)
        assert {one.digest for one in got} == {built.sha256}
        assert max(one.longest_pause for one in got) <= patience * PAUSE_SECONDS
        first, *more = self._simulator.asked("GET", f"*{built.filename}")
        assert "Range" not in first.headers
        # One that takes over may be done before another one has asked who does: that one goes on by itself.
        assert all("Range" in request.headers for request in more[1:]), [(one.at, one.headers) for one in more]
        self.counts["files that two went on with"] += len(more) > 1
        for request in more:
            resumed = "Range" in request.headers
            assert resumed == ("If-Range" in request.headers)
            self.counts["files resumed" if resumed else "files fetched anew"] += 1

    async def _check_uploads(self, number: int, wheels: Writer, readers: Sequence[Client], other: Client) -> None:
        """Check that all of them show every wheel that was answered, and have its bytes."""
        project = f"ours{number}"
        pages = await asyncio.gather(*(one.get(f"/simple/{project}/") for one in readers)) if wheels.answered else []
        for page in pages:
            assert [built.filename for built in wheels.answered if built.filename not in page.text] == []
        await wheels.try_again(lambda one: self._upload(other, one))
        for at, built in enumerate(wheels.answered):
            reader = readers[at % len(readers)]
            assert (await reader.get(f"/packages/{project}/{built.filename}")).body == built.content
        self.counts["wheels"] += len(wheels.answered)

    async def _check_log(self, readers: Sequence[Client], writers: Sequence[Writer], other: Client) -> None:
        """Check that all of them show one log, which begins as before and has each gem that was answered once."""
        for last in (False, True):
            log = await log_of_all_once_grown(readers)
            assert log.startswith(self._log)
            self._log = log
            lines = [line.split(" ") for line in log.decode().splitlines() if line.count(" ") == 2]
            for writer in writers:
                for built in writer.answered:
                    found = [item for name, items, _ in lines if name == built.name for item in items.split(",")]
                    assert found.count(built.version) == 1, f"{built.filename}: {found}"
            if not last:
                for writer in writers:
                    await writer.try_again(lambda one: self._push(other, one))
        for writer in writers:
            for at, built in enumerate(writer.answered):
                assert (await readers[at % len(readers)].get(f"/gems/{built.filename}")).body == built.content
            if writer.answered:
                name = writer.answered[0].name
                info = await same_of_all(readers, f"/info/{name}")
                (*_, last_line) = [line for line in lines if line[0] == name]
                assert last_line[2] == hashlib.md5(info.body, usedforsecurity=False).hexdigest()
            self.counts["gems"] += len(writer.answered)

    async def _upload(self, client: Client, built: Built) -> Reply:
        return await upload(client, self._token, built)

    async def _push(self, client: Client, built: Built) -> Reply:
        return await push(client, self._token, built.content)

    @property
    def report(self) -> str:
        """What happened in all rounds."""
        return ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
