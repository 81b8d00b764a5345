"""Browsers that are signed in: by a cookie that ends, and that no other site can use."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from mirror.auth.passwords import hash_password
from mirror.auth.sessions import SESSION_SECONDS
from mirror.catalog import User
from tests.builders import wheel
from tests.serving import Reply, Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import make_token
from tests.web.reading import look, sound

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)
CLOSED: dict[str, Any] = {"rules": [{"read": ["authenticated"], "upload": ["rita"], "yank": ["rita"]}]}


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path, clock: Clock) -> AsyncIterator[Serving]:
    simulator.publish(wheel("six", "1.0"))
    async with serving(tmp_path / "data", repositories(simulator), auth=CLOSED, clock=clock) as one:
        await one.mirror.catalog.accounts.add_user(User(name="rita", password=HASH))
        yield one


async def sign_in(mirror: Serving, name: str = "rita", password: str = PASSWORD, **headers: str) -> Reply:
    body = urlencode({"name": name, "password": password}).encode()
    site = {"Origin": mirror.url.rstrip("/")} | headers
    return await mirror.ask("POST", "-/signin", body, Content_Type="application/x-www-form-urlencoded", **site)


def cookie(reply: Reply) -> dict[str, str]:
    return {"Cookie": reply.headers["Set-Cookie"].partition(";")[0]}


async def test_a_cookie_shows_who_looks_at_pages_and_files(mirror: Serving) -> None:
    reply = await sign_in(mirror)
    assert (reply.status, reply.headers["Location"]) == (303, "projects/")
    assert re.fullmatch(
        r"mirror-session=[0-9a-f]{64}; HttpOnly; Max-Age=43200; Path=/; SameSite=Strict", reply.headers["Set-Cookie"]
    )
    page = await look(mirror, "-/projects/", **cookie(reply))
    assert page.status == 200
    assert "Signed in as rita" in sound(page).css_first("footer").text()
    assert page.headers["Cache-Control"] == "no-store"
    assert "Cookie" in page.headers["Vary"]
    for _ in range(3):
        assert (await mirror.get("simple/six/", **cookie(reply))).status == 200
        assert (await mirror.get("simple/six/")).status == 401
    secret = cookie(reply)["Cookie"].partition("=")[2]
    assert mirror.mirror.guard.known_rights(f"session {secret}".encode()), "pages are replayed"


async def test_behind_https_the_cookie_is_sent_over_nothing_else(simulator: Simulator, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"proxies": {"trusted": ["127.0.0.1"]}, "allowed_hosts": ["m.example"]}
    async with serving(tmp_path / "data", repositories(simulator), auth=CLOSED, **settings) as mirror:
        await mirror.mirror.catalog.accounts.add_user(User(name="rita", password=HASH))
        site = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "m.example", "X_Forwarded_Prefix": "/python"}
        reply = await sign_in(mirror, **site, Origin="https://m.example")
        assert reply.status == 303
        assert {"Secure", "HttpOnly", "Path=/python/"} <= set(reply.headers["Set-Cookie"].split("; "))
        assert (await sign_in(mirror, **site, Origin="http://m.example")).status == 403


async def test_only_the_digest_of_the_secret_is_stored(mirror: Serving) -> None:
    secret = cookie(await sign_in(mirror))["Cookie"].partition("=")[2]
    rows = await mirror.mirror.catalog.database.read("SELECT * FROM sessions")
    assert len(rows) == 1
    assert secret not in str(rows)


async def test_signing_out_ends_the_session_at_once(mirror: Serving) -> None:
    signed = cookie(await sign_in(mirror))
    other = cookie(await sign_in(mirror))
    assert (await look(mirror, "-/projects/", **signed)).status == 200
    out = await mirror.ask("POST", "-/signout", b"", Origin=mirror.url.rstrip("/"), **signed)
    assert (out.status, out.headers["Location"]) == (303, "signin")
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    assert (await look(mirror, "-/projects/", **signed)).status == 401
    assert (await look(mirror, "-/projects/", **other)).status == 200


async def test_a_session_ends_by_itself(mirror: Serving, clock: Clock) -> None:
    signed = cookie(await sign_in(mirror))
    clock.now += SESSION_SECONDS - 1
    assert (await look(mirror, "-/projects/", **signed)).status == 200
    clock.now += 2
    assert (await look(mirror, "-/projects/", **signed)).status == 401
    await sign_in(mirror)
    assert len(await mirror.mirror.catalog.database.read("SELECT * FROM sessions")) == 1, "what has expired is removed"


async def test_a_new_password_and_a_revoked_token_end_sessions(mirror: Serving, clock: Clock) -> None:
    accounts = mirror.mirror.catalog.accounts
    by_password = cookie(await sign_in(mirror))
    token = await make_token(mirror, ["read"])
    by_token = cookie(await sign_in(mirror, "__token__", token))
    for signed in (by_password, by_token):
        assert (await look(mirror, "-/projects/", **signed)).status == 200
    await accounts.change_user(User(name="rita", password=hash_password("another one")))
    for one in await accounts.tokens():
        await accounts.remove_token(one.name)
    mirror.mirror.guard.accounts_changed()
    for signed in (by_password, by_token):
        assert (await look(mirror, "-/projects/", **signed)).status == 401


async def test_a_session_changes_nothing_for_other_sites_and_those_who_do_not_say(mirror: Serving) -> None:
    signed = cookie(await sign_in(mirror))
    path = "-/uploads/pypi/x-1.0-py3-none-any.whl/yank"
    own = {"Origin": mirror.url.rstrip("/")}
    assert (await mirror.ask("POST", "api/v1/gems", b"x", **signed, **own)).status == 422, "it may push, but not this"
    assert (await mirror.ask("POST", "api/v1/gems", b"x", **signed)).status == 401
    for foreign in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        for where in (path, "-/signin", "-/signout", "api/v1/gems"):
            assert (await mirror.ask("POST", where, b"", **signed, **foreign)).status == 403
    assert (await look(mirror, "-/projects/", **signed)).status == 200


@pytest.mark.parametrize(("name", "password"), [("rita", "wrong"), ("nobody", PASSWORD), ("", ""), ("__token__", "x")])
async def test_a_wrong_password_begins_nothing(mirror: Serving, name: str, password: str) -> None:
    reply = await sign_in(mirror, name, password)
    assert reply.status == 401
    assert "Set-Cookie" not in reply.headers
    assert "Basic" not in reply.headers["WWW-Authenticate"]
    assert sound(reply).css_first("form.signin") is not None


@pytest.mark.parametrize("secret", ["", "x", "0" * 64, "0" * 9000, "'; DROP TABLE sessions", '"'])
async def test_a_cookie_that_is_none_of_ours_is_no_login(mirror: Serving, secret: str) -> None:
    assert (await look(mirror, "-/projects/", Cookie=f"mirror-session={secret}")).status == 401
