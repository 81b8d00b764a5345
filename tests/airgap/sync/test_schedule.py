"""[[sync]] tables: sets that the serving mirror keeps ahead of demand."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from mirror.catalog.coordination import Leases
from mirror.cli.options import check_settings
from mirror.config import Settings, SyncSettings
from mirror.errors import Misconfigured
from mirror.service.scheduled_sync import sync_set
from tests.builders import wheel
from tests.loop_lag import LAG_SECONDS, loop_lag
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator


async def settled(mirror: Serving, name: str, count: int) -> None:
    """Wait until a set names so many files and sidecars."""
    async with asyncio.timeout(20):
        while (await mirror.mirror.catalog.sets.names()).get(name) != count:  # noqa: ASYNC110  the mirror has no event for it
            await asyncio.sleep(0.02)


async def test_a_set_is_held_before_a_client_requests_it(simulator: Simulator, tmp_path: Path) -> None:
    for built in (wheel("six", "1.0"), wheel("six", "2.0"), wheel("app", "1.0", requires=["six<2"])):
        simulator.publish(built)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("app\n")
    sets = [
        {"name": "shop", "files": [str(requirements)]},
        {"name": "six", "names": ["six"], "newest": 0, "dependencies": False},
    ]
    async with serving(tmp_path / "data", repositories(simulator), sync=sets) as mirror:
        await settled(mirror, "shop", 4)
        await settled(mirror, "six", 4)
        simulator.forget()
        for filename in ("six-1.0-py3-none-any.whl", "six-2.0-py3-none-any.whl"):
            assert (await mirror.get(f"packages/six/{filename}")).outcome == "hit"
        assert simulator.requests == []


async def test_a_set_is_left_to_the_node_that_is_at_it(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(wheel("six", "1.0"))
    one = SyncSettings.model_validate({"name": "six", "names": ["six"], "dependencies": False})
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        catalog = mirror.mirror.catalog
        other = Leases(catalog.leases._database)
        assert await other.take("sync six", mirror.mirror.clock(), 60)
        assert not await sync_set(mirror.mirror, [], one)
        assert simulator.requests == []
        await other.give_back("sync six")
        assert await sync_set(mirror.mirror, [], one)
        assert await catalog.sets.names() == {"six": 2}
        assert await other.take("sync six", mirror.mirror.clock(), 60)


async def test_a_lease_is_renewed_for_as_long_as_the_work_takes(simulator: Simulator, tmp_path: Path) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        leases = mirror.mirror.catalog.leases
        database = leases._database
        other = Leases(database)

        async def ends() -> float:
            ((until,),) = await database.read("SELECT until FROM leases WHERE name = 'long'")
            return float(until)

        async with leases.held("long", time.time, 3) as mine:
            first = await ends()
            async with asyncio.timeout(30):
                while await ends() == first:  # noqa: ASYNC110  a table has no event for it
                    await asyncio.sleep(0.02)
            assert mine
            async with other.held("long", time.time, 3) as theirs:
                assert not theirs
        assert await other.take("long", time.time(), 60)


async def test_a_set_that_fails_is_logged_and_stops_nothing(
    simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.publish(wheel("six", "1.0"))
    sets = [
        {"name": "lost", "files": [str(tmp_path / "lost.lock")]},
        {"name": "unknown", "names": ["nobody-has-this"], "dependencies": False},
        {"name": "good", "names": ["six"], "dependencies": False},
    ]
    with caplog.at_level(logging.INFO, "mirror.service.scheduled_sync"):
        async with serving(tmp_path / "data", repositories(simulator), sync=sets) as mirror:
            await settled(mirror, "good", 2)
            async with asyncio.timeout(10):
                while caplog.text.count("the set ") < 4:  # noqa: ASYNC110  the mirror has no event for it
                    await asyncio.sleep(0.02)
    assert "the set lost could not be fetched" in caplog.text
    assert "the set unknown lacks nobody-has-this: no such project" in caplog.text


async def test_an_offline_mirror_keeps_no_sets(simulator: Simulator, tmp_path: Path) -> None:
    sets = [{"name": "six", "names": ["six"]}]
    async with serving(tmp_path / "data", repositories(simulator), sync=sets, offline=True) as mirror:
        await asyncio.sleep(0.1)
        assert await mirror.mirror.catalog.sets.names() == {}
    assert simulator.requests == []


@pytest.mark.parametrize(
    ("tables", "place", "said"),
    [
        ([{"name": "a", "names": ["!"]}], ("sync", 0), "is neither a project"),
        ([{"name": "a", "python": ["2"]}], ("sync", 0), "is not a Python version"),
        ([{"name": "a", "platforms": ["amiga"]}], ("sync", 0), "is not known"),
        ([{"name": "a", "repositories": ["none"]}], ("sync", 0), "There is no repository 'none' here."),
        ([{"name": "a"}, {"name": "a"}], ("sync", 1, "name"), "another set is called 'a' too"),
    ],
)
def test_a_table_that_can_never_work_is_refused_with_its_place(
    tables: list[dict[str, Any]], place: tuple[str | int, ...], said: str
) -> None:
    with pytest.raises(Misconfigured, match=said) as caught:
        check_settings(Settings.model_validate({"data_dir": "/nowhere", "sync": tables}))
    assert caught.value.place == place


HOSTILE = {
    "requirements.txt": "a==1 --hash=sha256:00\n" * 100_000,
    "uv.lock": "version = 1\n" + "[[package]]\nname='a'\nversion='1'\nsource={registry='http://h'}\n" * 20_000 + "x",
    "Gemfile.lock": "GEM\n  specs:\n" + "    a (1)\n" * 200_000 + "wrong\n",
}


@pytest.mark.parametrize(("name", "text"), HOSTILE.items(), ids=HOSTILE)
async def test_a_large_file_of_a_set_is_read_while_the_mirror_answers(
    name: str, text: str, simulator: Simulator, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text if name != "requirements.txt" else f"{text}= wrong\n")
    one = SyncSettings.model_validate({"name": "large", "files": [str(path)], "dependencies": False})
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        async with loop_lag() as lag:
            assert not await sync_set(mirror.mirror, [], one)
        assert lag.worst < 2 * LAG_SECONDS, "of a machine that others use as well"
