"""A sync in the process of the mirror: what it fetches, skips, reports and records in sets."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mirror.airgap.lockfiles import RequirementSet, Target, named, parse
from mirror.airgap.sync.bulk import MIN_BATCH_FILES, SMALL_FILE_BYTES
from mirror.airgap.sync.fetching import SyncResult, fetch, remember
from mirror.airgap.sync.inputs import SyncInput
from mirror.airgap.sync.queue import SyncFile
from mirror.catalog import SetMember
from mirror.errors import StorageFull
from mirror.service import scheduled_sync
from tests.builders import Built, gem, sdist, wheel
from tests.serving import Serving, repositories, serving
from tests.simulator import Corrupt, Cut, Simulator, Stall, Status, no_digest

LINUX = Target("3.11", "manylinux_2_36_x86_64")


class RecordedProgress:
    """Records what it is shown."""

    def __init__(self) -> None:
        self.fetching: list[str] = []
        self.done: list[str] = []
        self.reasons: dict[str, str] = {}

    def on_found(self, files: Sequence[SyncFile], held: int) -> None:
        self.fetching += [file.file.filename for file in files]

    def on_fetched(self, file: SyncFile) -> None:
        self.done.append(file.file.filename)

    def on_failed(self, file: SyncFile, reason: str) -> None:
        self.reasons[file.file.filename] = reason


async def unresolved(parsed: RequirementSet, target: Target, repository: str) -> RequirementSet:
    raise AssertionError("nothing here has to be resolved")


def needs(*names: str, repository: str = "pypi", newest: int | None = None) -> SyncInput:
    (parsed,) = named(names, newest)
    return SyncInput(requirements=parsed, repository=repository, targets=(LINUX,), dependencies=False)


async def synced(mirror: Serving, *inputs: SyncInput, progress: RecordedProgress | None = None) -> SyncResult:
    async with scheduled_sync.local_fetcher(mirror.mirror) as fetcher:
        return await fetch(
            inputs, fetcher, unresolved, scheduled_sync.holdings(mirror.mirror), progress or RecordedProgress()
        )


@asynccontextmanager
async def filled(simulator: Simulator, tmp_path: Path, *built: Built, **settings: Any) -> AsyncIterator[Serving]:
    for one in built:
        simulator.push(one) if one.filename.endswith(".gem") else simulator.publish(one)
    async with serving(tmp_path / "data", repositories(simulator), **settings) as mirror:
        yield mirror


def blobs(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "data" / "blobs").glob("*/*")}


async def test_pages_files_and_sidecars_come_and_serve_offline(simulator: Simulator, tmp_path: Path) -> None:
    six, source, rack = wheel("six", "1.16"), sdist("six", "1.15"), gem("rack", "3.0")
    async with filled(simulator, tmp_path, six, source, rack) as mirror:
        result = await synced(mirror, needs("six"), needs("gem:rack", repository="rubygems"))
        assert (result.fetched, result.held, result.problems) == (3, 0, ())
        assert result.size == six.size + source.size + rack.size
        assert simulator.count("GET", "*.metadata") == 0  # it was read out of the wheel
        versions = (await mirror.get("versions")).body
    await simulator.go_down()
    async with serving(tmp_path / "data", repositories(simulator), offline=True) as mirror:
        for path, content in (
            (f"packages/six/{six.filename}", six.content),
            (f"packages/six/{six.filename}.metadata", six.metadata),
            (f"packages/six/{source.filename}", source.content),
            ("gems/rack-3.0.gem", rack.content),
            ("versions", versions),
        ):
            reply = await mirror.get(path)
            assert (reply.status, reply.outcome, reply.body) == (200, "offline", content), path
        assert (await mirror.get("quick/Marshal.4.8/rack-3.0.gemspec.rz")).status == 200
        assert (await mirror.get("info/rack")).status == 200


async def test_what_is_held_is_not_fetched_again(simulator: Simulator, tmp_path: Path) -> None:
    versions = [wheel("six", f"1.{minor}") for minor in range(30)]
    async with filled(simulator, tmp_path, *versions) as mirror:
        await mirror.get(f"packages/six/{versions[3].filename}")  # by a client, and so without its metadata
        simulator.inject("*six-1.2?-*", Status(500))  # as if it had been interrupted
        first = await synced(mirror, needs("six"))
        assert (first.fetched, first.held, len(first.problems)) == (20, 0, 10)
        simulator.heal()
        simulator.forget()
        mirror.mirror.upstreams[next(iter(mirror.mirror.upstreams))]._hosts.known.clear()
        second = await synced(mirror, needs("six"))
        assert (second.fetched, second.held, second.problems) == (10, 20, ())
        assert simulator.count("GET", "/packages/*") == 10
        simulator.forget()
        assert (await synced(mirror, needs("six"))).fetched == 0
        assert simulator.requests == []


@pytest.mark.usefixtures("embedded")
async def test_a_file_that_fails_is_reported_and_the_rest_goes_on(simulator: Simulator, tmp_path: Path) -> None:
    good, bad, gone = wheel("six", "1.0"), wheel("six", "2.0"), wheel("six", "3.0")
    progress = RecordedProgress()
    async with filled(simulator, tmp_path, good, bad, gone) as mirror:
        simulator.inject(f"*{bad.filename}", Corrupt(10))
        simulator.inject(f"*{gone.filename}", Status(404))
        result = await synced(mirror, needs("six"), progress=progress)
        assert result.fetched == 1
        assert progress.done == [good.filename]
        assert f"{bad.filename} has " in progress.reasons[bad.filename]
        assert "does not exist" in progress.reasons[gone.filename]
        assert {problem.what for problem in result.problems} == {bad.filename, gone.filename}
        assert {member.filename for member in result.members} == {good.filename, f"{good.filename}.metadata"}
    assert bad.sha256 not in blobs(tmp_path)
    assert hashlib.sha256(bad.content).hexdigest() not in blobs(tmp_path)


@pytest.mark.usefixtures("embedded")
async def test_a_connection_that_breaks_is_taken_up_again(simulator: Simulator, tmp_path: Path) -> None:
    six = wheel("six", "1.0", size=20_000)
    async with filled(simulator, tmp_path, six) as mirror:
        cut = simulator.inject("*.whl", Cut(after=5000), times=1)
        assert (await synced(mirror, needs("six"))).problems == ()
        assert cut.hits == 1
    assert six.sha256 in blobs(tmp_path)


async def test_the_first_files_come_while_another_page_is_still_looked_at(simulator: Simulator, tmp_path: Path) -> None:
    small = [wheel("six", f"1.{minor}") for minor in range(MIN_BATCH_FILES)]
    large, late = wheel("large", "1.0", size=3 * SMALL_FILE_BYTES), wheel("late", "1.0")
    progress = RecordedProgress()
    async with filled(simulator, tmp_path, *small, large, late) as mirror:
        simulator.inject("/simple/late/", Stall())
        syncing = asyncio.create_task(synced(mirror, needs("late", "six", "large"), progress=progress))
        async with asyncio.timeout(20):
            while len(progress.done) < MIN_BATCH_FILES + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert late.filename not in progress.fetching
        simulator.heal()
        result = await syncing
        assert (result.fetched, result.problems) == (MIN_BATCH_FILES + 2, ())
        members = [member.filename for member in result.members]
        assert members.index(late.filename) < members.index(large.filename)  # in the order of the inputs


async def test_a_file_that_is_needed_twice_is_fetched_once(simulator: Simulator, tmp_path: Path) -> None:
    progress = RecordedProgress()
    async with filled(simulator, tmp_path, wheel("six", "1.0"), wheel("six", "2.0")) as mirror:
        result = await synced(mirror, needs("six"), needs("six==1.0"), progress=progress)
        assert result.fetched == len(progress.fetching) == len(progress.done) == 2
        assert simulator.count("GET", "/packages/*") == 2


async def test_a_full_disk_ends_a_sync_and_is_named(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(files: object) -> int:
        raise StorageFull("The disk is full.")

    async with filled(simulator, tmp_path, wheel("six", "1.0")) as mirror:
        monkeypatch.setattr(mirror.mirror.catalog.files, "add_all", full)
        with pytest.raises(StorageFull, match="full"):
            await synced(mirror, needs("six"))


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("kind", ["large", "without sizes", "without digests"])
async def test_files_that_are_not_small_take_the_usual_way(simulator: Simulator, tmp_path: Path, kind: str) -> None:
    six = wheel("six", "1.0", size=3 * SMALL_FILE_BYTES if kind == "large" else 0)
    if kind == "without sizes":
        simulator.pypi.configure(sizes=False)
    if kind == "without digests":
        simulator.inject("/simple/six/", no_digest())
    async with filled(simulator, tmp_path, six) as mirror:
        assert (await synced(mirror, needs("six"))).problems == ()
        again = await synced(mirror, needs("six"))
        assert (again.fetched, again.held) == (0, 1)
    assert six.sha256 in blobs(tmp_path)


async def test_a_sidecar_that_differs_from_the_promise_is_asked_for(simulator: Simulator, tmp_path: Path) -> None:
    six = wheel("six", "1.0")
    simulator.publish(six, metadata=b"Metadata-Version: 2.1\nName: six\nVersion: 1.0\nSummary: other\n")
    async with filled(simulator, tmp_path) as mirror:
        assert (await synced(mirror, needs("six"))).problems == ()
        assert simulator.count("GET", "*.metadata") == 1
        assert b"Summary: other" in (await mirror.get(f"packages/six/{six.filename}.metadata")).body


async def test_what_was_fetched_is_in_a_set_under_all_its_names(simulator: Simulator, tmp_path: Path) -> None:
    old, new = wheel("six", "1.0"), wheel("six", "2.0")
    async with filled(simulator, tmp_path, old, new) as mirror:
        sets = mirror.mirror.catalog.sets
        await remember(sets, "ci", await synced(mirror, needs("six==1.0")), only=True)
        source = simulator.simple_url
        names = [f"six-1.0-py3-none-any.whl{ending}" for ending in ("", ".metadata")]
        assert await sets.members("ci") == [SetMember(source, "six", name) for name in names]
        simulator.inject("*six-2.0*", Status(404), times=1)
        await remember(sets, "ci", await synced(mirror, needs("six==2.0")), only=True)
        assert await sets.names() == {"ci": 2}  # as long as something is amiss, nothing is let go
        await remember(sets, "ci", await synced(mirror, needs("six==2.0")), only=True)
        assert {member.filename for member in await sets.members("ci")} == {
            "six-2.0-py3-none-any.whl", "six-2.0-py3-none-any.whl.metadata",
        }  # fmt: skip


async def test_policy_has_its_say_and_is_named(simulator: Simulator, tmp_path: Path) -> None:
    rule = {"name": "not that one", "kind": "deny", "reason": "It is bad.", "projects": ["six"], "versions": "<2"}
    async with filled(simulator, tmp_path, wheel("six", "1.0"), wheel("six", "2.0"), policy=[rule]) as mirror:
        result = await synced(mirror, needs("six==1.0"), needs("six==2.0"), needs("six==3.0"))
        reasons = {problem.what: problem.reason for problem in result.problems}
        assert reasons == {"six 1.0": "blocked by policy: not that one: It is bad", "six 3.0": "no such version"}
        assert result.fetched == 1


async def test_a_lock_is_taken_at_its_word(simulator: Simulator, tmp_path: Path) -> None:
    linux = wheel("six", "1.0", tags="cp311-cp311-manylinux_2_17_x86_64")
    other = wheel("six", "1.0", tags="cp311-cp311-win_amd64")
    text = 'lock-version = "1.0"\ncreated-by = "tests"\n' + "".join(
        f'[[packages]]\nname = "{name}"\nversion = "1.0"\n'
        f'wheels = [{{url = "https://files.example/{filename}", hashes = {{sha256 = "{digest}"}}}}]\n'
        for name, filename, digest in (
            ("six", linux.filename, linux.sha256),
            ("only-windows", "only_windows-1.0-py3-none-win_amd64.whl", other.sha256),
            ("altered", "altered-1.0-py3-none-any.whl", "0" * 64),
            ("unknown", "unknown-1.0-py3-none-any.whl", "1" * 64),
        )
    )
    parsed = parse("pylock.toml", text)
    published = (linux, other, wheel("altered", "1.0"), wheel("only-windows", "1.0", tags="py3-none-win_amd64"))
    async with filled(simulator, tmp_path, *published) as mirror:
        result = await synced(mirror, SyncInput(requirements=parsed, repository="pypi", targets=(LINUX,)))
        assert result.fetched == 1
        assert {str(problem) for problem in result.problems} == {
            "only-windows 1.0: no wheel for the target (Python 3.11 on manylinux_2_36_x86_64) (pylock.toml:7)",
            "altered-1.0-py3-none-any.whl: the index lists it with another digest (pylock.toml:11)",
            "unknown 1.0: no such project (pylock.toml:15)",
        }


async def test_an_upstream_that_fails_is_named_for_each_project(simulator: Simulator, tmp_path: Path) -> None:
    async with filled(simulator, tmp_path, wheel("six", "1.0")) as mirror:
        await simulator.go_down()
        (problem,) = (await synced(mirror, needs("six"))).problems
        assert problem.what == "six"
        assert "cannot be reached" in problem.reason
