"""Who may do what: the pure decision, credentials, patience, the guard, and closed repositories over HTTP."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from mirror.auth import (
    ANONYMOUS,
    AccessRule,
    AccessRules,
    Guard,
    Identity,
    digest,
    may,
    new_token,
    requested_key,
    scope,
)
from mirror.auth.credentials import PasswordCredential, TokenCredential, is_token, parse_authorization
from mirror.auth.guard import RECHECK_SECONDS, VERIFIED_SECONDS
from mirror.auth.passwords import hash_password, verify_password
from mirror.auth.rights import EVERYTHING, RIGHTS
from mirror.auth.throttle import FORGET_SECONDS, MAX_WAIT_SECONDS, LoginThrottle
from mirror.catalog import Accounts, Token, User
from mirror.catalog.sqlite import SQLite
from mirror.errors import Conflict, Forbidden, Invalid, MirrorError, Unauthorized, UnknownProject
from mirror.model import Grant, Names, Right
from mirror.pypi.versions import pattern as python_pattern
from mirror.server.facts import FACTS, RequestFacts, facts_of
from tests.builders import gem, wheel
from tests.serving import repositories, serving
from tests.simulator import Simulator

PASSWORD = "correct horse battery"
HASH = hash_password(PASSWORD)


def grant(*rights: Right, projects: tuple[str, ...] = ("*",), repositories: tuple[str, ...] = ("*",)) -> Grant:
    return Grant(rights=frozenset(rights), projects=projects, repositories=repositories)


def rule(projects: str = "*", repositories: str = "*", **holders: list[str]) -> AccessRule:
    named = {right: frozenset(holders[right]) for right in RIGHTS if right in holders}
    return AccessRule(projects=(projects,), repositories=(repositories,), holders=named)


def own(*grants: Grant) -> Identity:
    """A token without an owner."""
    return Identity(token="t", grants=grants, limits=grants)


READER = Identity(user="rita", groups=frozenset({"readers"}))
UPLOADER = Identity(user="ulla", grants=(grant("upload", projects=("acme-*",)),))
YANKER = Identity(user="yves", grants=(grant("yank", projects=("acme-*",)),))
ADMIN = Identity(user="ada", grants=(grant("admin"),))
CLOSED = AccessRules((rule(read=["@readers"]),))
OPEN = AccessRules()


# The decision


@pytest.mark.parametrize("rules", [OPEN, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize("project", ["acme-tool", "other"])
@pytest.mark.parametrize(
    ("who", "on_its_names", "elsewhere"),
    [
        (ANONYMOUS, "", ""),
        (READER, "", ""),
        (UPLOADER, "read upload", ""),
        (YANKER, "read yank", ""),
        (ADMIN, "read upload yank admin", "read upload yank admin"),
    ],
    ids=str,
)
def test_everybody_may_what_they_were_given_and_no_more(
    who: Identity, on_its_names: str, elsewhere: str, project: str, rules: AccessRules
) -> None:
    expected = set((on_its_names if project.startswith("acme-") else elsewhere).split())
    if rules is OPEN or who is READER:
        expected.add("read")
    assert {right for right in RIGHTS if may(who, right, "pypi", project, rules)} == expected


@pytest.mark.parametrize(
    ("rules", "who", "right", "project", "expected"),
    [
        # The first rule that fits decides, and only for the rights that it speaks of.
        ([rule("acme-*", upload=["ulla"]), rule(upload=["authenticated"])], READER, "upload", "acme-x", False),
        ([rule("acme-*", upload=["ulla"]), rule(upload=["authenticated"])], READER, "upload", "other", True),
        ([rule("acme-*", upload=["ulla"]), rule(read=["ulla"])], READER, "read", "acme-x", False),
        ([rule("acme-*", yank=["ulla"]), rule(upload=["authenticated"])], READER, "upload", "acme-x", True),
        # Holders: users, groups, all who are known, everyone, no one.
        ([rule(upload=["rita"])], READER, "upload", "x", True),
        ([rule(upload=["@readers"])], READER, "upload", "x", True),
        ([rule(upload=["readers"])], READER, "upload", "x", False),
        ([rule(upload=["everyone"])], ANONYMOUS, "upload", "x", True),
        ([rule(read=["authenticated"])], ANONYMOUS, "read", "x", False),
        ([rule(read=["authenticated"])], READER, "read", "x", True),
        ([rule(read=[])], READER, "read", "x", False),
        # The right to change a project implies reading it, and admin implies everything.
        ([rule(read=[], upload=["rita"])], READER, "read", "x", True),
        ([rule(read=[], admin=["rita"])], READER, "upload", "x", True),
        ([rule(read=[], admin=["rita"])], READER, "yank", "x", True),
        ([rule(upload=["rita"], yank=["rita"])], READER, "admin", "x", False),
        # Another repository's rules do not matter.
        ([rule(repositories="team*", read=[])], ANONYMOUS, "read", "x", True),
        ([rule(repositories="p*", read=[])], ANONYMOUS, "read", "x", False),
    ],
)
def test_rules(rules: list[AccessRule], who: Identity, right: Right, project: str, expected: bool) -> None:
    assert may(who, right, "pypi", project, AccessRules(tuple(rules))) is expected


ACME = grant("upload", projects=("acme-*",))


@pytest.mark.parametrize(
    ("who", "right", "project", "expected"),
    [
        # A token of its own has what it was given, whatever rules say of those who are known.
        (own(ACME), "upload", "acme-x", True),
        (own(ACME), "upload", "other", False),
        (own(ACME), "read", "acme-x", True),
        (own(ACME), "read", "other", False),
        (own(grant("upload", repositories=("team",))), "upload", "acme-x", False),
        # A user's token: within its limits, and only what the user may.
        (Identity(user="rita", token="t", limits=(grant("admin"),)), "upload", "other", True),
        (Identity(user="rita", token="t", limits=(grant("admin"),)), "yank", "other", False),
        (Identity(user="rita", token="t", limits=(ACME,)), "upload", "acme-x", True),
        (Identity(user="rita", token="t", limits=(ACME,)), "upload", "other", False),
        (Identity(user="rita", token="t", limits=(grant("read"),)), "upload", "acme-x", False),
        (Identity(user="rita", token="t", limits=()), "read", "acme-x", False),
    ],
)
def test_a_token_never_reaches_past_its_limits(who: Identity, right: Right, project: str, expected: bool) -> None:
    rules = AccessRules((rule(read=["authenticated"], upload=["rita"]),))
    assert may(who, right, "pypi", project, rules) is expected


def test_what_everyone_may_a_limited_token_may_too() -> None:
    assert may(own(ACME), "read", "pypi", "anything", OPEN)


def test_patterns_are_spelled_as_the_repository_spells_names() -> None:
    rules = AccessRules((rule("Acme_*", read=[]),), {"pypi": python_pattern})
    assert not may(ANONYMOUS, "read", "pypi", "acme-x", rules)
    assert may(ANONYMOUS, "read", "rubygems", "acme-x", rules)
    assert may(own(grant("upload", projects=("Acme.*",))), "upload", "pypi", "acme-x", rules)


def test_those_who_see_the_same_have_equal_scopes() -> None:
    rules = AccessRules((rule("secret-*", read=["@readers"]),))
    rita, rolf = (Identity(user=name, groups=frozenset({"readers"})) for name in ("rita", "rolf"))
    assert scope(rita, "read", "pypi", rules) == scope(rolf, "read", "pypi", rules)
    assert scope(rita, "read", "pypi", rules) != scope(ANONYMOUS, "read", "pypi", rules)
    assert scope(ADMIN, "read", "pypi", rules) is EVERYTHING
    assert scope(ANONYMOUS, "read", "pypi", OPEN) is EVERYTHING
    assert scope(ANONYMOUS, "read", "pypi", CLOSED).nothing
    assert not scope(ANONYMOUS, "read", "pypi", rules).nothing


def test_a_list_of_names_holds_those_that_may_be_read() -> None:
    names = Names(serials={"secret-a": 1, "b": 2}, display={"secret-a": "Secret.A", "b": "B"}, serial=7)
    rules = AccessRules((rule("secret-*", read=[]),))
    seen = scope(ANONYMOUS, "read", "pypi", rules).filter(names)
    assert seen == Names(serials={"b": 2}, display={"b": "B"}, serial=7)
    assert EVERYTHING.filter(names) is names


# Credentials


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


TOKEN = f"mirror_{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (basic("__token__", TOKEN), TokenCredential(TOKEN)),
        (basic("anyone", TOKEN), TokenCredential(TOKEN)),
        (basic(TOKEN, ""), TokenCredential(TOKEN)),
        (basic("__token__", "something else"), TokenCredential("something else")),
        (basic("alice", "a:b"), PasswordCredential("alice", "a:b")),
        (basic("alice", ""), PasswordCredential("alice", "")),
        (basic("älice", "pässword"), PasswordCredential("älice", "pässword")),
        (f"Bearer {TOKEN}", TokenCredential(TOKEN)),
        (f"bearer  {TOKEN} ", TokenCredential(TOKEN)),
        (TOKEN, TokenCredential(TOKEN)),
        ("rubygems_other", TokenCredential("rubygems_other")),
    ],
)
def test_credentials_are_found_where_clients_put_them(header: str, expected: object) -> None:
    assert parse_authorization(header) == expected


@pytest.mark.parametrize(
    "header", ["", " ", "Basic !!!", "Basic " + base64.b64encode(b"no colon").decode(), "Digest a=b", "x" * 5000,
               "Basic " + base64.b64encode(b"\xff\xfe:x").decode(), "Negotiate abc def"],
)  # fmt: skip
def test_what_is_no_credential_is_refused(header: str) -> None:
    with pytest.raises(Unauthorized):
        parse_authorization(header)


def test_a_token_is_recognised_and_never_printed() -> None:
    assert is_token(TOKEN)
    assert is_token(new_token())
    assert new_token() != new_token()
    assert not is_token(TOKEN + "0")
    assert TOKEN not in repr(TokenCredential(TOKEN))
    assert PASSWORD not in repr(PasswordCredential("alice", PASSWORD))


@pytest.mark.parametrize("password", ["short", "x" * 1001])
def test_a_password_has_a_sensible_length(password: str) -> None:
    with pytest.raises(Invalid):
        hash_password(password)


def test_only_the_right_password_fits() -> None:
    assert verify_password(PASSWORD, HASH)
    assert not verify_password(PASSWORD + ".", HASH)
    assert not verify_password(PASSWORD, None)
    assert not verify_password(PASSWORD, "no hash")
    assert not verify_password("x" * 5000, HASH)


# Patience


def test_failed_logins_wait_ever_longer_one_after_the_other() -> None:
    patience = LoginThrottle(free=3, max_pause=4.0)
    waits = [patience.claim("a", 0.0) for _ in range(7)]
    assert waits == [0, 0, 0, 0, 0.25, 0.75, 1.75]
    assert patience.claim("b", 0.0) == 0, "others are not kept waiting"


def test_who_would_have_to_wait_too_long_is_refused_at_once() -> None:
    patience = LoginThrottle(free=0, max_pause=MAX_WAIT_SECONDS)
    waits = [patience.claim("a", 0.0) for _ in range(50)]
    assert waits[-1] is None
    assert max(wait for wait in waits if wait is not None) <= MAX_WAIT_SECONDS
    assert patience.claim("a", 100.0) == 0, "later the next one is looked at"


def test_a_right_password_and_a_quiet_while_end_the_waiting() -> None:
    patience = LoginThrottle(free=1, max_pause=4.0)
    for _ in range(3):
        patience.claim("a", 0.0)
    patience.forget("a")
    assert [patience.claim("a", 0.0) for _ in range(2)] == [0, 0]
    for _ in range(3):
        patience.claim("b", 0.0)
    assert [patience.claim("b", FORGET_SECONDS + 10) for _ in range(2)] == [0, 0]


def test_right_logins_of_an_address_are_no_failures() -> None:
    patience = LoginThrottle(free=2, max_pause=4.0)
    for _ in range(20):
        assert patience.claim("a", 0.0) == 0
        patience.forgive("a")


# The guard


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def request(authorization: str | None = None, address: str = "192.0.2.1") -> web.BaseRequest:
    headers = {} if authorization is None else {"Authorization": authorization}
    request = make_mocked_request("GET", "/", headers=headers)
    request[FACTS] = RequestFacts(client=address)
    return request


@pytest.fixture
async def accounts(tmp_path: Path) -> AsyncIterator[Accounts]:
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    yield Accounts(database)
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(accounts: Accounts, clock: Clock) -> Callable[..., Guard]:
    """Makes guards over the accounts and the clock of the test."""
    return lambda rules=OPEN, **more: Guard(accounts, rules, clock=clock, **more)


async def outcome(guard: Guard, authorization: str | None, right: Right, project: str) -> str:
    try:
        await guard.require(request(authorization), right, "pypi", project)
    except MirrorError as error:
        return type(error).__name__
    return "ok"


TABLE = {
    # who: what becomes of read, upload, yank, delete (which is admin): of acme-x / of a foreign name
    "anonymous": ("ok/ok", "Unauthorized/Unauthorized", "Unauthorized/Unauthorized", "Unauthorized/Unauthorized"),
    "wrong": ("Unauthorized/Unauthorized",) * 4,
    "reader": ("ok/ok", "Forbidden/Forbidden", "Forbidden/Forbidden", "Forbidden/Forbidden"),
    "uploader": ("ok/ok", "ok/Forbidden", "Forbidden/Forbidden", "Forbidden/Forbidden"),
    "token": ("ok/ok", "ok/Forbidden", "ok/Forbidden", "Forbidden/Forbidden"),
    "admin": ("ok/ok", "ok/ok", "ok/ok", "ok/ok"),
}
CLOSED_TABLE = TABLE | {
    "anonymous": ("Unauthorized/Unauthorized",) * 4,
    "uploader": ("ok/UnknownProject", *TABLE["uploader"][1:]),
    "token": ("ok/UnknownProject", *TABLE["token"][1:]),
}


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
async def test_the_guard_lets_through_who_may(accounts: Accounts, made: Callable[..., Guard], closed: bool) -> None:
    acme = ("acme-*",)
    await accounts.add_user(User(name="rita", password=HASH, groups=frozenset({"readers"})))
    await accounts.add_user(User(name="ulla", password=HASH, grants=(grant("upload", projects=acme),)))
    await accounts.add_user(User(name="ada", password=HASH, grants=(grant("admin"),)))
    await accounts.add_token(
        Token(name="ci", sha256=digest(TOKEN), grants=(grant("read", "upload", "yank", projects=acme),))
    )
    credentials = {
        "anonymous": None,
        "wrong": basic("rita", "wrong password"),
        "reader": basic("rita", PASSWORD),
        "uploader": basic("ulla", PASSWORD),
        "token": basic("__token__", TOKEN),
        "admin": basic("ada", PASSWORD),
    }
    guard = made(CLOSED if closed else OPEN)
    rights: tuple[Right, ...] = ("read", "upload", "yank", "admin")
    found: dict[str, tuple[str, ...]] = {}
    for who, presented in credentials.items():
        if who == "wrong":  # asked once: more often, it would have to wait
            found[who] = ("/".join([await outcome(guard, presented, "read", "x")] * 2),) * 4
            continue
        found[who] = tuple(
            [
                f"{await outcome(guard, presented, right, 'acme-x')}/{await outcome(guard, presented, right, 'other')}"
                for right in rights
            ]
        )
    assert found == (CLOSED_TABLE if closed else TABLE)
    await guard.close()


async def test_a_hidden_project_looks_like_an_unknown_one(made: Callable[..., Guard]) -> None:
    guard = made(AccessRules((rule("secret-*", read=["rita"]),)))
    with pytest.raises(UnknownProject) as refusal:
        await guard.require(request(), "read", "pypi", "secret-a")
    assert str(refusal.value) == str(UnknownProject("secret-a"))
    reading = guard.read_access("pypi")
    assert not reading.open
    await reading.check(request(), "other")
    assert not (await reading.scope(request())).allows("secret-a")


async def test_where_everyone_reads_credentials_are_not_looked_at(made: Callable[..., Guard]) -> None:
    reading = made().read_access("pypi")
    assert reading.open
    await reading.check(request("Basic nonsense"), "x")
    assert await reading.scope(request("Basic nonsense")) is EVERYTHING


async def test_a_right_credential_is_verified_once_a_minute(
    accounts: Accounts, made: Callable[..., Guard], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.add_user(User(name="rita", password=HASH))
    verified: list[str] = []

    def counted(password: str, kept: str | None) -> bool:
        verified.append(password)
        return verify_password(password, kept)

    monkeypatch.setattr("mirror.auth.passwords.verify_password", counted)
    guard, presented = made(), basic("rita", PASSWORD)
    identities = await asyncio.gather(*(guard.identify(request(presented)) for _ in range(20)))
    assert {identity.user for identity in identities} == {"rita"}
    assert len(verified) == 1, "twenty at once are verified once"
    await guard.identify(request(presented))
    assert len(verified) == 1
    clock.now += VERIFIED_SECONDS + 1
    await guard.identify(request(presented))
    assert len(verified) == 2


async def test_a_change_by_another_process_is_noticed(
    accounts: Accounts, made: Callable[..., Guard], clock: Clock, tmp_path: Path
) -> None:
    guard, presented = made(), f"Bearer {TOKEN}"
    with pytest.raises(Unauthorized):
        await guard.identify(request(presented))
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    elsewhere = Accounts(database)
    await elsewhere.add_token(Token(name="ci", sha256=digest(TOKEN), grants=(grant("upload"),)))
    assert (await guard.identify(request(presented))).token == "ci", "a wrong credential is not remembered"
    await elsewhere.remove_token("ci")
    clock.now += RECHECK_SECONDS + 0.1
    with pytest.raises(Unauthorized):
        await guard.identify(request(presented))
    await guard.close()
    await database.close()


REPOSITORIES = {"pypi": python_pattern, "rubygems": str}


async def test_who_may_read_the_same_has_the_same_number(
    accounts: Accounts, made: Callable[..., Guard], clock: Clock
) -> None:
    some = ("acme-*",)
    for name, projects in (("a", some), ("b", some), ("c", ("*",)), ("d", ("other",))):
        user_grant = grant("read", projects=projects)
        await accounts.add_user(User(name=name, password=HASH, grants=(user_grant,)))
    guard = made(AccessRules((rule(read=["nobody"]),), REPOSITORIES))
    presented = {name: basic(name, PASSWORD) for name in "abcd"}

    def known(name: str) -> int:
        return guard.known_rights(f"header {presented[name]}".encode())

    assert [known(name) for name in presented] == [0, 0, 0, 0], "none was verified yet"
    noted = []
    for one in presented.values():
        asked = request(one)
        await guard.identify(asked)
        noted.append(facts_of(asked).rights)
    assert noted == [known(name) for name in presented]
    assert noted[0] == noted[1]
    assert len({*noted, guard.anonymous_rights}) == 4
    assert 0 not in noted
    clock.now += RECHECK_SECONDS
    assert known("a") == 0, "accounts have to be looked at"
    await guard.identify(request(presented["b"]))
    assert known("a") == noted[0]
    guard.accounts_changed()
    assert known("a") == 0
    clock.now += VERIFIED_SECONDS
    await guard.identify(request(presented["b"]))
    assert known("a") == 0, "it has to be verified again"
    await guard.close()


async def test_rights_that_change_or_end_are_no_longer_known(
    accounts: Accounts, made: Callable[..., Guard], clock: Clock
) -> None:
    guard, presented = made(AccessRules((rule(read=["@readers"]),), REPOSITORIES)), f"Bearer {TOKEN}"
    expires = clock.now + 10
    await accounts.add_token(Token(name="ci", sha256=digest(TOKEN), grants=(grant("read"),), expires=expires))
    await guard.identify(request(presented))
    assert guard.known_rights(b"header " + presented.encode())
    clock.now = expires - 0.1
    await guard.identify(request())
    await guard.identify(request(presented))
    assert guard.known_rights(b"header " + presented.encode())
    clock.now = expires
    assert guard.known_rights(b"header " + presented.encode()) == 0
    await guard.close()


async def test_without_knowing_all_repositories_no_rights_are_told_apart(made: Callable[..., Guard]) -> None:
    asked, guard = request(), made(CLOSED)
    await guard.identify(asked)
    assert (facts_of(asked).rights, guard.anonymous_rights) == (0, 0)


async def test_a_verification_that_a_change_overtakes_is_not_remembered(
    accounts: Accounts, made: Callable[..., Guard], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.add_user(User(name="rita", password=HASH))
    guard, presented = made(), basic("rita", PASSWORD)
    started, go_on = asyncio.Event(), asyncio.Event()
    known = accounts.user

    async def slow(name: str) -> User | None:
        user = await known(name)
        started.set()
        await go_on.wait()
        return user

    monkeypatch.setattr(accounts, "user", slow)
    verifying = asyncio.create_task(guard.identify(request(presented)))
    await started.wait()
    await accounts.remove_user("rita")
    clock.now += RECHECK_SECONDS + 0.1
    with pytest.raises(Unauthorized):
        await guard.identify(request(f"Bearer {TOKEN}"))  # another client: the change is noticed
    go_on.set()
    assert (await verifying).user == "rita"
    with pytest.raises(Unauthorized):
        await guard.identify(request(presented))


async def test_a_token_expires_to_the_second(accounts: Accounts, made: Callable[..., Guard], clock: Clock) -> None:
    await accounts.add_token(Token(name="ci", sha256=digest(TOKEN), expires=clock.now + 10))
    guard = made()
    assert (await guard.identify(request(TOKEN))).token == "ci"
    clock.now += 10
    with pytest.raises(Unauthorized, match="expired"):
        await guard.identify(request(TOKEN))
    await guard.close()


async def test_the_use_of_a_token_is_noted_about_once_a_minute(
    accounts: Accounts, made: Callable[..., Guard], clock: Clock
) -> None:
    await accounts.add_token(Token(name="ci", sha256=digest(TOKEN)))
    guard = made()
    for step in (0.0, 5.0, VERIFIED_SECONDS + 1):
        clock.now += step
        await guard.identify(request(TOKEN))
        await guard.close()
    (token,) = await accounts.tokens()
    assert token.used == clock.now
    assert await accounts.generation() == 1, "that is no change to notice"


async def test_a_users_token_ends_with_the_user(accounts: Accounts, made: Callable[..., Guard], clock: Clock) -> None:
    await accounts.add_user(User(name="rita", password=HASH))
    await accounts.add_token(Token(name="laptop", sha256=digest(TOKEN), owner="rita", grants=(grant("read"),)))
    guard = made()
    identity = await guard.identify(request(TOKEN))
    assert str(identity) == "rita (token laptop)"
    await accounts.remove_user("rita")
    clock.now += RECHECK_SECONDS + 0.1
    with pytest.raises(Unauthorized):
        await guard.identify(request(TOKEN))
    assert await accounts.tokens() == []
    await guard.close()


async def test_users_and_tokens_of_the_file_hide_those_of_the_catalog(
    accounts: Accounts, made: Callable[..., Guard]
) -> None:
    await accounts.add_user(User(name="rita", password=hash_password("another password")))
    guard = made(users=[User(name="rita", password=HASH)], tokens=[Token(name="ci", sha256=digest(TOKEN))])
    assert (await guard.identify(request(basic("rita", PASSWORD)))).user == "rita"
    assert (await guard.identify(request(TOKEN))).token == "ci"


async def test_guessing_is_slowed_down_and_others_are_not(
    accounts: Accounts, made: Callable[..., Guard], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.add_user(User(name="rita", password=HASH))
    slept: list[float] = []
    sleep = asyncio.sleep

    async def no_time(seconds: float) -> None:
        if seconds >= 0:
            slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("mirror.auth.guard.asyncio.sleep", no_time)
    monkeypatch.setattr("mirror.auth.passwords.verify_password", lambda password, kept: password == PASSWORD)
    monkeypatch.setattr("mirror.auth.guard.refusal_delay", lambda seconds: -1.0)  # it is no wait of the throttle
    guard = made()
    refusals = []
    for guess in range(12):
        with pytest.raises(Unauthorized) as refusal:
            await guard.identify(request(basic("rita", f"guess {guess}")))
        refusals.append(str(refusal.value))
    assert slept[:4] == [0, 0, 0, 0]
    assert slept[4:] == sorted(slept[4:])
    assert slept[4] > 0
    assert max(slept) <= MAX_WAIT_SECONDS
    assert "wait" in refusals[-1], "in the end they are refused unseen"
    assert len(slept) < 12
    slept.clear()
    assert (await guard.identify(request(basic("rita", PASSWORD), address="192.0.2.2"))).user == "rita"
    assert slept == [0]


async def test_refused_writes_are_audited_without_secrets(
    made: Callable[..., Guard], accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await accounts.add_user(User(name="rita", password=HASH))
    guard = made()
    for presented in (None, basic("rita", "wrong password"), basic(TOKEN, "x"), TOKEN, basic("rita", PASSWORD)):
        with pytest.raises((Unauthorized, Forbidden)):
            await guard.require(request(presented), "upload", "pypi", "acme-x")
    facts = [getattr(record, "facts", {}) for record in caplog.records]
    refused = [fact for fact in facts if fact["what"] == "refused"]
    assert [fact["who"] for fact in refused] == ["anonymous"] * 4 + ["rita"]
    assert all(fact["client"] == "192.0.2.1" and fact["right"] == "upload" for fact in refused)
    assert [fact["who"] for fact in facts if fact["what"] == "login"] == ["rita", "unknown"]
    text = caplog.text + repr(facts)
    assert TOKEN not in text
    assert PASSWORD not in text
    assert "wrong password" not in text


async def test_a_refused_read_is_no_audit_line(made: Callable[..., Guard], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Unauthorized):
        await made(CLOSED).require(request(), "read", "pypi", "x")
    assert caplog.records == []


# Signing in


async def test_signing_in_makes_a_key_with_the_rights_that_were_asked_for(
    accounts: Accounts, made: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await accounts.add_user(User(name="ulla", password=HASH, grants=(grant("upload", "yank"),)))
    guard = made()
    name, rights = requested_key(b"name=my+laptop&push_rubygem=true&yank_rubygem=false&mfa=true")
    key = await guard.sign_in(request(basic("ulla", PASSWORD)), name, rights)
    assert is_token(key)
    identity = await guard.identify(request(key))
    assert identity.user == "ulla"
    assert identity.token.startswith("ulla/my-laptop-")
    assert await outcome(guard, key, "upload", "x") == "ok"
    assert await outcome(guard, key, "yank", "x") == "Forbidden"
    assert key not in caplog.text + repr([getattr(record, "facts", {}) for record in caplog.records])
    await guard.close()


async def test_signing_in_needs_a_password(accounts: Accounts, made: Callable[..., Guard]) -> None:
    await accounts.add_token(Token(name="ci", sha256=digest(TOKEN), grants=(grant("admin"),)))
    guard = made()
    for presented in (None, TOKEN, basic("nobody", PASSWORD)):
        with pytest.raises(Unauthorized):
            await guard.sign_in(request(presented), "key", frozenset({"upload"}))
    await guard.close()


def test_an_old_client_asks_for_a_key_without_a_word() -> None:
    assert requested_key(b"") == ("key", frozenset(RIGHTS))
    assert requested_key(b"name=%2e%2e%2fx%0a&index_rubygems=true") == ("x", frozenset({"read"}))
    for form in (b"x" * 20_000, b"\xff=1", b"&".join(b"a=%d" % n for n in range(200))):
        with pytest.raises(Invalid):
            requested_key(form)


# The catalog


async def test_names_are_taken_once_and_tokens_are_bounded(accounts: Accounts) -> None:
    await accounts.add_user(User(name="rita", password=HASH, grants=(ACME,), groups=frozenset({"a", "b"})))
    with pytest.raises(Conflict):
        await accounts.add_user(User(name="rita", password=HASH))
    user = await accounts.user("rita")
    assert user is not None
    assert (user.grants, user.groups) == ((ACME,), frozenset({"a", "b"}))
    for number in range(100):
        await accounts.add_token(Token(name=f"t{number}", sha256=digest(str(number)), owner="rita"))
    with pytest.raises(Invalid, match="revoke"):
        await accounts.add_token(Token(name="one more", sha256=digest("one more"), owner="rita"))
    with pytest.raises(Conflict):
        await accounts.add_token(Token(name="t1", sha256=digest("else")))


# Over HTTP


async def test_readers_of_a_closed_project_see_it_and_others_no_sign_of_it(
    simulator: Simulator, tmp_path: Path
) -> None:
    for name in ("secret-a", "open-b"):
        simulator.pypi.publish(wheel(name, "1.0"))
    auth = {
        "rules": [{"repositories": ["pypi"], "projects": ["secret-*"], "read": ["@team"]}],
        "users": {"rita": {"password_hash": HASH, "groups": ["team"]}},
    }
    rita = basic("rita", PASSWORD)
    page, unknown = "/simple/secret-a/", "/simple/secret-none/"
    async with serving(tmp_path / "data", repositories(simulator), auth=auth) as mirror:
        json = "application/vnd.pypi.simple.v1+json"
        seen = await mirror.get(page, Authorization=rita, Accept=json)
        assert seen.status == 200
        file = f"/packages/secret-a/{seen.json()['files'][0]['filename']}"
        held = await mirror.get(file, Authorization=rita)
        assert held.status == 200
        assert held.headers["Cache-Control"].startswith("private")
        asked_before = len(simulator.requests)
        for path in (page, file, f"{file}.metadata", "/pypi/secret-a/json", "/pypi/secret-a/1.0/json"):
            hidden = await mirror.get(path)
            missing = await mirror.get(path.replace("secret-a", "secret-none"))
            assert (hidden.status, missing.status) == (404, 404), path
            assert hidden.text.replace("secret-a", "secret-none") == missing.text
            assert dict(hidden.headers) | {"Content-Length": "", "Date": ""} == (
                dict(missing.headers) | {"Content-Length": "", "Date": ""}
            )
        assert len(simulator.requests) == asked_before, "upstream is not asked for those who may not read"
        assert (await mirror.get("/simple/open-b/")).status == 200
        names = {
            who: {
                entry["name"] for entry in (await mirror.get("/simple/", Accept=json, **presented)).json()["projects"]
            }
            for who, presented in (("anonymous", {}), ("rita", {"Authorization": rita}))
        }
        assert names == {"anonymous": {"open-b"}, "rita": {"open-b", "secret-a"}}
        wrong = await mirror.get(unknown, Authorization=basic("rita", "wrong password"))
        assert (wrong.status, wrong.headers["WWW-Authenticate"]) == (401, 'Basic realm="mirror"')


async def test_a_closed_repository_asks_every_stranger_for_credentials(simulator: Simulator, tmp_path: Path) -> None:
    simulator.pypi.publish(wheel("six", "1.0"))
    auth = {"rules": [{"repositories": ["pypi"], "read": ["authenticated"]}],
            "tokens": {"ci": {"sha256": digest(TOKEN), "rights": ["read"]}}}  # fmt: skip
    async with serving(tmp_path / "data", repositories(simulator), auth=auth) as mirror:
        for path in ("/simple/six/", "/simple/none/", "/simple/", "/packages/six/six-1.0-py3-none-any.whl"):
            reply = await mirror.get(path)
            assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Basic realm="mirror"'), path
        for presented in (basic("__token__", TOKEN), f"Bearer {TOKEN}", TOKEN):
            assert (await mirror.get("/simple/six/", Authorization=presented)).status == 200
            assert (await mirror.get("/simple/none/", Authorization=presented)).status == 404


async def test_a_hidden_gem_shows_nowhere(simulator: Simulator, tmp_path: Path) -> None:
    for name in ("secret-a", "open-b"):
        simulator.rubygems.push(gem(name, "1.0"))
    auth = {
        "rules": [{"repositories": ["rubygems"], "projects": ["secret-*"], "read": ["@team"]}],
        "users": {"rita": {"password_hash": HASH, "groups": ["team"]}},
    }
    rita = basic("rita", PASSWORD)
    of_the_gem = [
        "/info/secret-a",
        "/gems/secret-a-1.0.gem",
        "/quick/Marshal.4.8/secret-a-1.0.gemspec.rz",
        "/api/v1/gems/secret-a.json",
        "/api/v1/versions/secret-a.json",
        "/api/v2/rubygems/secret-a/versions/1.0.json",
    ]
    of_all = [
        "/versions",
        "/names",
        "/api/v1/search.json?query=secret",
        "/specs.4.8",
        "/api/v1/versions/secret-a/latest.json",
    ]
    async with serving(tmp_path / "data", repositories(simulator), auth=auth) as mirror:
        for path in of_the_gem:
            assert (await mirror.get(path, Authorization=rita)).status == 200, path
            hidden, missing = await mirror.get(path), await mirror.get(path.replace("secret-a", "secret-none"))
            assert (hidden.status, missing.status) == (404, 404), path
            assert hidden.text.replace("secret-a", "secret-none") == missing.text
        for path in of_all:
            presented = await mirror.get(path, Authorization=rita)
            strangers = await mirror.get(path)
            assert (presented.status, strangers.status) == (200, 200), path
            assert (b"secret-a" in presented.body, b"secret-a" in strangers.body) == ("latest" not in path, False), path
        unknown = await mirror.get("/api/v1/versions/secret-none/latest.json")
        assert (await mirror.get("/api/v1/versions/secret-a/latest.json")).body == unknown.body
