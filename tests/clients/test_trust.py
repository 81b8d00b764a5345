"""Real clients behind an internal index and a public one: the names of the internal one stay its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from tests.builders import wheel
from tests.clients.test_odd_upstreams import CLIENTS
from tests.clients.test_pypi import Pip, Uv, client
from tests.serving import spawned
from tests.simulator import Instead, Redirect, Simulator, Status

__all__ = ["client"]

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

OURS, THEIRS, COMMON = wheel("ourlib", "1.0"), wheel("ourlib", "99.0"), wheel("common", "1.0")
LOGIN = b"<!DOCTYPE html><title>Sign in</title><form><input name=user></form>"


@pytest.fixture
async def public() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@CLIENTS
@pytest.mark.parametrize("trouble", ["down", "404", "login page", "redirected"])
async def test_a_client_never_gets_another_project_of_an_internal_name(
    simulator: Simulator, public: Simulator, tmp_path: Path, client: Pip | Uv, trouble: str
) -> None:
    simulator.publish(OURS)
    public.publish(THEIRS)
    public.publish(COMMON)
    repositories = {"pypi": {"format": "pypi", "upstreams": [simulator.simple_url, public.simple_url]}}
    changing = {"network": {"connect_timeout": "1s", "retries": 0}, "pages": {"fresh": 0, "stale_while_revalidate": 0}}
    async with spawned(tmp_path / "data", repositories, **changing) as mirror:
        both = {"ourlib": "1.0", "common": "1.0"}
        assert await client.install(mirror, tmp_path / "before", "ourlib", "common") == both
        match trouble:
            case "down":
                await simulator.go_down()
            case "404":
                simulator.inject("/simple/*", Status(404))
            case "redirected":
                there = f"http://localhost:{URL(public.url).port}/simple/ourlib/"
                simulator.inject("/simple/ourlib/", Redirect(there))
            case _:
                simulator.inject("/simple/*", Instead(LOGIN))
        if trouble == "404":
            with pytest.raises(AssertionError):
                await client.install(mirror, tmp_path / "after", "ourlib")
        else:
            assert await client.install(mirror, tmp_path / "after", "ourlib", "common") == both
        assert public.count("GET", "*ourlib*") == 0


@CLIENTS
async def test_names_that_a_bucket_forbids_come_from_the_next_index_where_that_is_set(
    simulator: Simulator, public: Simulator, tmp_path: Path, client: Pip | Uv
) -> None:
    simulator.publish(OURS)
    public.publish(COMMON)
    simulator.inject("/simple/common/", Status(403))
    bucket = {"url": simulator.simple_url, "forbidden_means_missing": True}
    repositories = {"pypi": {"format": "pypi", "upstreams": [bucket, public.simple_url]}}
    async with spawned(tmp_path / "data", repositories) as mirror:
        found = await client.install(mirror, tmp_path / "home", "ourlib", "common")
        assert found == {"ourlib": "1.0", "common": "1.0"}
