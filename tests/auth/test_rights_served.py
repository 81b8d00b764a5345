"""Who may do what, on the wire: everybody, with every request, on names that are theirs and that are not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.auth import digest
from mirror.model import Right
from tests.builders import Built, gem, wheel
from tests.serving import Reply, Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import basic, change_gem, make_token, push, upload

WHO: dict[str, tuple[Right, ...] | None] = {
    "anonymous": None,
    "reader": ("read",),
    "uploader": ("upload",),
    "yanker": ("yank",),
    "admin": ("admin",),
}
"""The clients; all but anonymous have their rights on `acme-*` only."""

PUBLIC = {"read": 200}
TABLE: dict[tuple[str, str], dict[str, int]] = {
    # Who, and whose name: what is answered to reading, uploading, yanking and deleting.
    ("anonymous", "acme-tools"): {"read": 401, "upload": 401, "yank": 401, "delete": 401},
    ("anonymous", "other"): {"read": 401, "upload": 401, "yank": 401, "delete": 401},
    ("reader", "acme-tools"): {"read": 200, "upload": 403, "yank": 403, "delete": 403},
    ("reader", "other"): {"read": 404, "upload": 403, "yank": 404, "delete": 404},
    ("uploader", "acme-tools"): {"read": 200, "upload": 200, "yank": 403, "delete": 403},
    ("uploader", "other"): {"read": 404, "upload": 403, "yank": 404, "delete": 404},
    ("yanker", "acme-tools"): {"read": 200, "upload": 403, "yank": 200, "delete": 403},
    ("yanker", "other"): {"read": 404, "upload": 403, "yank": 404, "delete": 404},
    ("admin", "acme-tools"): {"read": 200, "upload": 200, "yank": 200, "delete": 200},
    ("admin", "other"): {"read": 404, "upload": 403, "yank": 404, "delete": 404},
}
"""Where no one reads anonymously. Where everyone reads, only the 404 and the first 401 become what PUBLIC has."""

BOTH = {name: {"format": name, "upstreams": []} for name in ("pypi", "rubygems")}
CLOSED = {"rules": [{"read": []}]}


@pytest.fixture(params=[False, True], ids=["open", "closed"])
async def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Serving]:
    auth = {"auth": CLOSED} if request.param else {}
    async with serving(tmp_path / "data", BOTH, **auth) as mirror:
        mirror.closed = request.param  # type: ignore[attr-defined]
        yield mirror


def built(format: str, name: str, version: str) -> Built:
    return (wheel if format == "pypi" else gem)(name, version)


def page_of(format: str, name: str) -> str:
    return f"simple/{name}/" if format == "pypi" else f"info/{name}"


async def put(mirror: Serving, secret: str | None, format: str, name: str, version: str) -> Reply:
    one = built(format, name, version)
    return await (upload(mirror, secret, one) if format == "pypi" else push(mirror, secret, one.content))


async def ask(mirror: Serving, secret: str | None, format: str, what: str, name: str) -> Reply:
    """One request for a project that has version 1.0."""
    headers = {"Authorization": basic(secret)} if secret else {}
    file = f"-/uploads/{format}/{built(format, name, '1.0').filename}"
    match what:
        case "read":
            return await mirror.get(page_of(format, name), **headers)
        case "upload":
            return await put(mirror, secret, format, name, "1.1")
        case "yank":
            return await mirror.ask("POST", f"{file}/yank", {"reason": "why"}, **headers)
        case _:
            return await mirror.ask("DELETE", file, **headers)


@pytest.mark.parametrize("format", BOTH)
@pytest.mark.parametrize("what", ["read", "upload", "yank", "delete"])
@pytest.mark.parametrize(("who", "name"), TABLE)
async def test_who_may_do_what_and_what_comes_of_it(
    mirror: Serving, format: str, who: str, name: str, what: str
) -> None:
    owner = await make_token(mirror, ["admin"])
    assert (await put(mirror, owner, format, name, "1.0")).status == 200
    rights = WHO[who]
    secret = None if rights is None else await make_token(mirror, rights, ["acme-*"])
    login = {"Authorization": basic(owner)}
    before = (await mirror.get(page_of(format, name), **login)).body

    reply = await ask(mirror, secret, format, what, name)

    expected = TABLE[who, name][what]
    if not mirror.closed:  # type: ignore[attr-defined]
        expected = PUBLIC.get(what, 403 if expected == 404 else expected)
    assert reply.status == expected, reply.text
    if reply.status == 401:
        assert reply.headers["WWW-Authenticate"].startswith("Basic realm=")
    if reply.status == 404:
        assert reply.text.replace(name, "x") in (
            (await ask(mirror, secret, format, what, "nowhere")).text.replace("nowhere", "x")
        ), "what is hidden is as what is not there"
    after = await mirror.get(page_of(format, name), **login)
    assert (after.body == before) == (what == "read" or expected != 200)
    if expected == 200:
        effect = {"upload": b"1.1", "yank": b"why"}.get(what)
        if what == "delete":
            assert after.status == 404
        elif format == "pypi" and effect:
            assert effect in after.body
        elif what == "yank":
            assert b"1.0 " not in after.body


async def test_the_clients_own_yank_asks_for_the_same_right(mirror: Serving) -> None:
    owner = await make_token(mirror, ["admin"])
    for name in ("acme-tools", "other"):
        await put(mirror, owner, "rubygems", name, "1.0")
    for rights, name, status in (
        (("upload",), "acme-tools", 403),
        (("yank",), "other", 403),
        (("yank",), "acme-tools", 200),
    ):
        secret = await make_token(mirror, rights, ["acme-*"])  # type: ignore[arg-type]
        assert (await change_gem(mirror, secret, "yank", name, "1.0")).status == status


async def test_what_is_yanked_over_http_can_be_unyanked_and_another_sites_page_cannot(mirror: Serving) -> None:
    owner = await make_token(mirror, ["admin"])
    await put(mirror, owner, "pypi", "acme", "1.0")
    login = {"Authorization": basic(owner)}
    path = "-/uploads/pypi/acme-1.0-py3-none-any.whl"
    before = (await mirror.get("simple/acme/", **login)).text
    assert (await mirror.ask("POST", f"{path}/yank", Sec_Fetch_Site="cross-site", **login)).status == 403
    assert (await mirror.ask("POST", f"{path}/yank", **login)).json()["yanked"] == ""
    assert "data-yanked" in (await mirror.get("simple/acme/", **login)).text
    assert (await mirror.ask("POST", f"{path}/unyank", **login)).json()["yanked"] is None
    after = (await mirror.get("simple/acme/", **login)).text
    assert after.partition("<!--SERIAL")[0] == before.partition("<!--SERIAL")[0]
    for wrong in ("-/uploads/nowhere/x.whl", "-/uploads/pypi/x.whl"):
        assert (await mirror.ask("DELETE", wrong, **login)).status == 404


@pytest.mark.parametrize("format", BOTH)
async def test_what_is_kept_for_one_client_reaches_only_those_with_its_rights(
    tmp_path: Path, simulator: Simulator, format: str
) -> None:
    for name in ("acme", "other"):
        simulator.publish(wheel(name, "1.0"))
        simulator.push(gem(name, "1.0"))
    acme, other = page_of(format, "acme"), page_of(format, "other")
    async with serving(tmp_path / "data", repositories(simulator), auth=CLOSED) as mirror:
        tokens = [await make_token(mirror, ("read",), projects) for projects in (("acme",), ("acme",), ("*",))]
        accounts = mirror.mirror.catalog.accounts

        async def seen(path: str) -> list[int]:
            return [(await mirror.get(path, Authorization=basic(one))).status for one in tokens]

        for _ in range(4):
            assert await seen(acme) == [200, 200, 200]
            assert await seen(other) == [404, 404, 200]
            assert (await mirror.get(acme)).status == 401
        answered = [await mirror.get(acme, Authorization=basic(one)) for one in tokens]
        assert {one.headers["Cache-Control"].partition(",")[0] for one in answered} == {"private"}
        assert await accounts.remove_token(digest(tokens[0])[:12])
        mirror.mirror.guard.accounts_changed()
        assert await seen(acme) == [401, 200, 200]
