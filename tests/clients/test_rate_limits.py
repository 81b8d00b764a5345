"""An upstream that limits its JSON API, and many questions to it, beside people who install."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.builders import gem, wheel
from tests.clients.python import running
from tests.clients.ruby import Ruby, rubies
from tests.serving import repositories, spawned
from tests.simulator import RateLimit, Simulator

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

QUESTIONS = 150
PER_SECOND = 30


@pytest.mark.parametrize(
    ("ruby", "paced", "retry_after"),
    [
        (Ruby(), True, None),  # then upstream limits nothing, and asks for no pause
        (Ruby(), False, None),
        *((ruby, False, 3600) for ruby in rubies()),
    ],
    ids=str,
)
async def test_a_burst_of_questions_disturbs_neither_bundler_nor_pip(
    simulator: Simulator, tmp_path: Path, ruby: Ruby, retry_after: int | None, paced: bool
) -> None:
    for number in range(QUESTIONS):
        simulator.push(gem(f"asked{number}", "1.0"))
    for name in ("rack", "tiny"):
        simulator.push(gem(name, "1.0"))
    simulator.publish(wheel("app", "1.0", requires=["library"]))
    simulator.publish(wheel("library", "1.0"))
    simulator.inject("/api/*", RateLimit(PER_SECOND, 1, retry_after))
    network = {} if paced else {"api_rate": 0}
    async with spawned(tmp_path / "data", repositories(simulator), network=network) as mirror:
        with ruby.home(mirror.url) as home:
            questions = [
                asyncio.create_task(mirror.get(f"/api/v1/versions/asked{number}.json")) for number in range(QUESTIONS)
            ]
            bundler = home.bundle("install", gemfile='gem "rack"\ngem "tiny"\n')
            pip = running(
                sys.executable, "-m", "pip", "install", "--index-url", f"{mirror.url}simple/", "--target",
                tmp_path / "installed", "--no-cache-dir", "app",
            )  # fmt: skip
            await asyncio.gather(bundler, pip)
            assert home.locked() == {"rack (1.0)", "tiny (1.0)"}
        assert (tmp_path / "installed" / "library").exists()
        statuses = [reply.status for reply in await asyncio.gather(*questions)]
        metrics = (await mirror.get("/metrics")).text
    found = re.findall(r'^mirror_requests_total\{.*status="(\d).*"', metrics, re.MULTILINE)
    # What upstream's API does not give is made of what is known; nothing here depends on it.
    assert statuses == [200] * QUESTIONS
    assert found
    assert "5" not in found
    limited = simulator.count(path="/api/*", status=429)
    assert limited == 0 if paced else limited > 0
