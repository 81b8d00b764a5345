"""The list of projects: in order, without gaps or doubles, a bounded piece at a time."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mirror.auth import ANONYMOUS, AccessRule, AccessRules, Scope, scope
from mirror.catalog import Catalog, HeldFile
from mirror.catalog.sqlite import SQLite
from mirror.index.repository import Repository
from mirror.model import Page, Stamp, UpstreamResponse
from mirror.pypi import ECOSYSTEM, FORMAT
from mirror.web.projects import PROJECTS_PER_PAGE, BrowsableRepository, KnownNames, ProjectList, ProjectRow

EVERYTHING = scope(ANONYMOUS, "read", "pypi", AccessRules())


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    catalog = Catalog(database)
    yield catalog
    await catalog.close()


class Names:
    """A list of names that counts how often it is read."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.asked = 0

    async def __call__(self) -> KnownNames:
        self.asked += 1
        return KnownNames.of(self.names, str(len(self.names)))


def browsable(name: str, names: list[str], private: tuple[str, ...] = ()) -> BrowsableRepository:
    repository = SimpleNamespace(name=name, format=FORMAT, sources=[SimpleNamespace(name=f"up-{name}", local=False)])
    return BrowsableRepository(
        repository=cast(Repository, repository), mount="/", ecosystem=ECOSYSTEM, names=Names(names),
        private=private,
    )  # fmt: skip


async def hold(catalog: Catalog, source: str, *names: str, filename: str = "x.whl") -> None:
    for name in names:
        await catalog.files.add(
            HeldFile(source=source, project=name, filename=filename, digest=f"{name}{filename}", size=10, stored=5)
        )


async def walk(browsing: ProjectList, query: str = "", scopes: dict[str, Scope] | None = None) -> list[ProjectRow]:
    """All rows, page by page."""
    rows: list[ProjectRow] = []
    following: str | None = ""
    while following is not None:
        listed = await browsing.page(query, following, scopes or {"pypi": EVERYTHING, "team": EVERYTHING})
        assert len(listed.rows) <= PROJECTS_PER_PAGE + 2, "all that share the last name stay together"
        assert following != listed.next_position
        rows += listed.rows
        following = listed.next_position
    return rows


async def test_pages_follow_each_other_without_gaps_or_doubles(catalog: Catalog) -> None:
    chance = random.Random(7)
    all_names = sorted({f"{chance.choice('abcxyz')}{chance.randrange(10_000)}" for _ in range(900)})
    held = {"pypi": chance.sample(all_names, 130), "team": chance.sample(all_names, 90)}
    listed = {"pypi": all_names, "team": chance.sample(all_names, 200)}
    for name, some in held.items():
        await hold(catalog, f"up-{name}", *some)
    repositories = {name: browsable(name, listed[name]) for name in held}
    rows = await walk(ProjectList(repositories, catalog.browse))
    expected = sorted((not row.held, row.name, row.repository) for row in rows)
    assert [(not row.held, row.name, row.repository) for row in rows] == expected, "held first, then by name"
    assert {(row.repository, row.name) for row in rows if row.held} == {(r, n) for r in held for n in held[r]}
    assert {(row.repository, row.name) for row in rows} == {(r, n) for r in held for n in {*held[r], *listed[r]}}
    assert len(rows) == len({(row.repository, row.name) for row in rows})


async def test_a_search_begins_with_names_that_begin_so(catalog: Catalog) -> None:
    await hold(catalog, "up-pypi", "django", "pytest-django", "six", "a%b")
    browsing = ProjectList({"pypi": browsable("pypi", ["django-x", "my-django", "zope", "a_b"])}, catalog.browse)
    found = [(row.name, row.held) for row in await walk(browsing, "Django", {"pypi": EVERYTHING})]
    assert found == [("django", True), ("pytest-django", True), ("django-x", False), ("my-django", False)]
    assert [row.name for row in await walk(browsing, "%", {"pypi": EVERYTHING})] == ["a%b"], "no wildcard"
    assert await walk(browsing, "x" * 5000, {"pypi": EVERYTHING}) == []


async def test_what_only_has_sidecars_or_a_page_is_known_and_not_held(catalog: Catalog) -> None:
    await hold(catalog, "up-pypi", "six", filename="six-1.whl.metadata")
    stored = UpstreamResponse(url="u", content_type="t", body=b"x")
    for name in ("six", "seen"):
        await catalog.pages.put("up-pypi", Page("project", name), stored, Stamp(1, True, "r"))
    await catalog.pages.miss("up-pypi", Page("project", "gone"), 1)
    rows = await walk(ProjectList({"pypi": browsable("pypi", [])}, catalog.browse), "", {"pypi": EVERYTHING})
    assert [(row.name, row.held) for row in rows] == [("seen", False), ("six", False)]


async def test_names_that_may_not_be_read_and_private_ones_of_upstreams_are_left_out(catalog: Catalog) -> None:
    await hold(catalog, "up-pypi", *(f"acme-{number}" for number in range(200)), "six")
    rules = AccessRules((AccessRule(projects=("acme-*",), holders={"read": frozenset()}),))
    repositories = {"pypi": browsable("pypi", ["acme-squatted", "intern", "zope"], private=("intern",))}
    rows = await walk(ProjectList(repositories, catalog.browse), "", {"pypi": scope(ANONYMOUS, "read", "pypi", rules)})
    assert [row.name for row in rows] == ["six", "zope"]


async def test_a_page_of_a_million_names_looks_at_few_of_them(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{number:06}" for number in range(300_000)]
    browsing = ProjectList({"pypi": browsable("pypi", names)}, catalog.browse)
    asked: list[Any] = []
    read = catalog.database.read

    async def counted(sql: str, *values: Any) -> list[tuple[Any, ...]]:
        rows = await read(sql, *values)
        asked.append(len(rows))
        return rows

    monkeypatch.setattr(catalog.database, "read", counted)
    listed = await browsing.page("", "1.n150000", {"pypi": EVERYTHING})
    assert [row.name for row in listed.rows] == names[150_001 : 150_001 + PROJECTS_PER_PAGE]
    assert len(asked) <= 8
    assert max(asked) <= PROJECTS_PER_PAGE


async def test_a_list_of_names_is_sorted_once_for_each_state_of_it(catalog: Catalog) -> None:
    one = browsable("pypi", ["b", "a"])
    browsing = ProjectList({"pypi": one}, catalog.browse)
    assert [row.name for row in await walk(browsing, "", {"pypi": EVERYTHING})] == ["a", "b"]
    first = browsing._sorted["pypi"][1]
    await walk(browsing, "", {"pypi": EVERYTHING})
    assert browsing._sorted["pypi"][1] is first
    cast(Names, one.names).names.append("c")
    assert [row.name for row in await walk(browsing, "", {"pypi": EVERYTHING})] == ["a", "b", "c"]
