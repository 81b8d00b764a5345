"""An import that is killed at any moment: the old state until it is done, then the new one, never a mixture."""

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mirror.index.journal import LOOK_SECONDS
from tests.airgap.bundle.nodes import Node, pages, trusting
from tests.builders import gem, wheel
from tests.serving import Client, serving, spawned
from tests.simulator import Simulator
from tests.uploading import make_token, upload

pytestmark = pytest.mark.usefixtures("embedded")

PROJECTS = [f"project-{number}" for number in range(12)]
PATHS = [*(f"simple/{name}/" for name in PROJECTS), "versions", "info/rack", "simple/acme/"]
TIMES = 10


async def filled(simulator: Simulator, node: Node, version: str) -> dict[str, tuple[int, bytes]]:
    """Fill a mirror with a version of every project; return its answers."""
    built = [wheel(name, version, size=30_000) for name in PROJECTS]
    for one in built:
        simulator.publish(one)
    simulator.push(gem("rack", version))
    async with serving(node.data_dir, node.repositories) as mirror:
        assert (await upload(mirror, await make_token(mirror), wheel("acme", version))).status == 200
        await pages(mirror, PATHS, Cache_Control="no-cache")
        for one in built:
            assert (await mirror.get(f"packages/{one.name}/{one.filename}")).status == 200
        assert (await mirror.get(f"gems/rack-{version}.gem")).status == 200
        return await pages(mirror, PATHS)


@pytest.mark.timeout(240)
async def test_killed_ten_times_it_leaves_the_old_state_until_the_new_one_is_whole(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = Node(simulator, tmp_path, "a"), Node(simulator, tmp_path, "b", offline=True)
    await trusting(a, b, capsys)
    old = await filled(simulator, a, "1.0")
    await a(capsys, "export", "-o", tmp_path / "old.tar", "--all")
    await b(capsys, "import", tmp_path / "old.tar")
    new = await filled(simulator, a, "2.0")
    assert all(old[path] != new[path] for path in PATHS)
    await b(capsys, "inventory", "-o", tmp_path / "held")
    await a(capsys, "export", "-o", tmp_path / "new.tar", "--for", tmp_path / "held")
    before, killed, late = blobs(b), 0, 0
    coming = len(PROJECTS) + 3  # wheels, a gem, an upload with its metadata
    async with spawned(b.data_dir, b.repositories, offline=True) as mirror:
        assert await pages(mirror, PATHS) == old
        for moment in [*range(1, 8), coming - 1, coming, coming]:
            process = await b.spawn("import", tmp_path / "new.tar")
            while blobs(b) < before + moment and process.returncode is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if moment == coming:
                await asyncio.sleep(LOOK_SECONDS + 0.01 * killed)  # just about when it makes everything visible
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()
            if taken(b):
                late += 1
                break
            killed += 1
            assert await pages(mirror, PATHS) == old
        process = await b.spawn("import", tmp_path / "new.tar")
        watching = asyncio.create_task(watch(mirror, old, new))
        assert await process.wait() == (1 if late else 0)  # when all was taken in, there is nothing to take in
        assert await asyncio.wait_for(watching, 30)
        assert await pages(mirror, PATHS) == new
    print(f"\nkilled {killed} times before the end, {late} after it")
    assert killed >= TIMES - 2
    assert blobs(b) == before + coming
    records = {path.name for path in (b.data_dir / "uploads").rglob("*.json")}
    assert records == {f"acme-{version}-py3-none-any.whl.json" for version in ("1.0", "2.0")}


async def test_a_kill_between_the_catalog_and_the_records_loses_no_upload(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = Node(simulator, tmp_path, "a"), Node(simulator, tmp_path, "b", offline=True)
    await trusting(a, b, capsys)
    await filled(simulator, a, "1.0")
    await a(capsys, "export", "-o", tmp_path / "all.tar", "--all")

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("mirror.index.records.Records.replace", killed)
        with pytest.raises(Killed):
            await b(capsys, "import", tmp_path / "all.tar")
    assert not (b.data_dir / "uploads").exists()
    async with serving(b.data_dir, b.repositories, offline=True) as mirror:
        assert (await mirror.get("simple/acme/")).status == 200
    assert [path.name for path in (b.data_dir / "uploads").rglob("*.json")] == ["acme-1.0-py3-none-any.whl.json"]


def blobs(node: Node) -> int:
    """Return the number of its blobs."""
    return sum(1 for _ in (node.data_dir / "blobs").glob("??/*"))


def taken(node: Node) -> bool:
    """Return whether the second bundle is visible."""
    with closing(sqlite3.connect(node.data_dir / "catalog.sqlite")) as catalog:
        ((count,),) = catalog.execute("SELECT count(*) FROM feed WHERE kind = 'import'")
    return int(count) > 1


async def watch(mirror: Client, old: dict[str, tuple[int, bytes]], new: dict[str, tuple[int, bytes]]) -> bool:
    """Request one page after the other until all are new; return whether none was old after one was new."""
    turned = False
    while True:
        answers = [(path, answer) for path in PATHS for answer in (await pages(mirror, [path])).values()]
        for path, answer in answers:
            assert answer in (old[path], new[path]), path
            assert answer == new[path] or not turned, f"{path} is old after another one was new"
            turned = turned or answer == new[path]
        if all(answer == new[path] for path, answer in answers):
            return True
