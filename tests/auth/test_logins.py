"""Guessing passwords: what it costs, whom it does not keep out, and what the time of a refusal shows."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.auth.guard import Guard
from mirror.auth.passwords import hash_password
from mirror.auth.rights import AccessRules
from mirror.auth.throttle import REFUSAL_SECONDS, refusal_delay
from mirror.catalog import Accounts, Token, User
from mirror.errors import Unauthorized
from tests.serving import repositories, serving
from tests.simulator import Simulator

PASSWORD = "correct horse"


class NoAccounts(Accounts):
    """A catalog without accounts."""

    def __init__(self) -> None:
        pass

    async def generation(self) -> int:
        return 1

    async def user(self, name: str) -> User | None:
        return None

    async def token(self, sha256: str) -> Token | None:
        return None


class Passwords:
    """Verifies passwords that are stored as they are, and records how many at a time it may verify."""

    def __init__(self) -> None:
        self.verified: list[tuple[str, bool]] = []

    async def verify(self, password: str, stored: str | None, known: bool = False) -> bool:
        self.verified.append((password, known))
        return password == stored


class Site:
    """A guard with one user, whose clock moves when it sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        users = [User(name="alice", password=PASSWORD)]
        self.guard = Guard(NoAccounts(), AccessRules(), users=users, clock=lambda: self.now)
        self.passwords = Passwords()
        monkeypatch.setattr(self.guard, "_passwords", self.passwords)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def login(self, name: str, password: str, address: str) -> str:
        """Try to log in, and return what came of it."""
        try:
            await self.guard._verify_password(name, password, address)
        except Unauthorized as error:
            return "unseen" if "Too many" in str(error) else "refused"
        return "accepted"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


async def guess(site: Site, address: Callable[[int], str], count: int = 300) -> int:
    """Guess passwords of alice at one moment, and return how many were looked at."""
    return [await site.login("alice", f"wrong-{n}", address(n)) for n in range(count)].count("refused")


async def test_addresses_of_one_network_of_64_are_one_client(site: Site) -> None:
    assert await guess(site, lambda n: f"2001:db8::{n:x}") < 20


async def test_one_name_is_not_guessed_from_everywhere_at_once(site: Site) -> None:
    assert await guess(site, lambda n: f"10.{n // 250}.{n % 250}.1") < 60


async def test_whoever_has_logged_in_from_there_before_does_not_wait_for_guesses_elsewhere(site: Site) -> None:
    assert await site.login("alice", PASSWORD, "192.0.2.1") == "accepted"
    await guess(site, lambda n: f"10.{n // 250}.{n % 250}.1")
    assert await site.login("alice", PASSWORD, "198.51.100.1") == "unseen"
    site.slept.clear()
    assert await site.login("alice", PASSWORD, "192.0.2.1") == "accepted"
    assert max(site.slept) == 0
    assert site.passwords.verified[-1] == (PASSWORD, True)


async def test_a_login_that_is_right_is_no_failure(site: Site) -> None:
    for number in range(100):
        assert await site.login("alice", PASSWORD, f"10.0.{number}.1") == "accepted"


async def test_a_refusal_takes_a_multiple_of_one_time_for_every_name(site: Site) -> None:
    for name in ("alice", "nobody"):
        site.slept.clear()
        assert await site.login(name, "wrong", "192.0.2.7") == "refused"
        assert 0 < site.slept[-1] <= REFUSAL_SECONDS
    for took in (0.0, 0.03, 0.1, 0.24, 0.26, 1.7):
        whole = (took + refusal_delay(took)) / REFUSAL_SECONDS
        assert whole == pytest.approx(round(whole))


async def test_those_who_are_known_do_not_queue_behind_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    from mirror.auth.passwords import PasswordVerifier

    release, verifier = asyncio.Event(), PasswordVerifier()

    async def wait(work: Callable[..., object], password: str, stored: str | None) -> bool:
        if password == "guess":
            await release.wait()
        return True

    monkeypatch.setattr(asyncio, "to_thread", wait)
    guesses: list[Awaitable[bool]] = [asyncio.ensure_future(verifier.verify("guess", None)) for _ in range(300)]
    async with asyncio.timeout(10):
        assert await verifier.verify(PASSWORD, PASSWORD, known=True)
    release.set()
    await asyncio.gather(*guesses)


async def test_addresses_that_a_client_claims_to_have_change_nothing(simulator: Simulator, tmp_path: Path) -> None:
    closed: dict[str, Any] = {"rules": [{"read": ["authenticated"]}]}
    async with serving(tmp_path / "data", repositories(simulator), auth=closed) as mirror:
        await mirror.mirror.catalog.accounts.add_user(User(name="alice", password=hash_password(PASSWORD)))
        seen = []
        for number in range(7):
            login = "Basic " + base64.b64encode(f"alice:wrong-{number}".encode()).decode()
            forged = {"X_Forwarded_For": f"10.0.0.{number}", "Forwarded": f"for=10.1.0.{number}"}
            began = time.monotonic()
            assert (await mirror.get("simple/", Authorization=login, **forged)).status == 401
            seen.append(time.monotonic() - began)
        assert seen[-1] > 0.9, "one client waits after some wrong ones"


@pytest.mark.parametrize(
    ("token", "warned"),
    [({}, True), ({"projects": ["*"]}, False), ({"projects": ["acme"]}, False), ({"rights": ["read"]}, False)],
)
async def test_a_token_of_the_file_says_aloud_that_it_uploads_everything(
    token: dict[str, Any], warned: bool, simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    auth = {"tokens": {"ci": {"sha256": "0" * 64, **token}}}
    async with serving(tmp_path / "data", repositories(simulator), auth=auth):
        assert ("auth.tokens.ci may upload any project" in caplog.text) is warned
