"""The tables of flights and of nodes, on both engines."""

from typing import cast

from mirror.catalog import Catalog
from mirror.catalog.flights import NodeRow
from tests.catalog.conftest import Opener


async def test_a_flight_is_taken_once_and_ended_by_its_owner_alone(catalog: Catalog) -> None:
    flights = catalog.flights
    first = await flights.take("name", "http://a:1")
    assert first.mine
    seen = await flights.take("name", "http://b:1")
    assert (seen.mine, seen.owner, seen.token) == (False, "http://a:1", first.token)
    assert (await flights.take("another", "http://b:1")).mine
    over = await flights.take_over(seen, "http://b:1")
    assert over.mine
    late = await flights.take_over(seen, "http://c:1")
    assert (late.mine, late.owner) == (False, "http://b:1")
    assert not await flights.holds(first)
    await flights.end(first)  # changes nothing that is no longer its own
    assert await flights.holds(over)
    await flights.end(over)
    assert (await flights.take_over(seen, "http://c:1")).mine


async def test_flights_whose_owners_vanished_long_ago_are_forgotten(catalog: Catalog) -> None:
    await catalog.flights.take("old", "http://a:1")
    await catalog.flights.take("new", "http://a:1")
    await catalog.database.write(("UPDATE flights SET since = since - 200000 WHERE name = 'old'", ()))
    await catalog.flights.forget_old()
    assert [cast(str, name) for (name,) in await catalog.database.read("SELECT name FROM flights")] == ["new"]


async def test_nodes_are_those_that_showed_a_sign_of_life_and_each_has_an_address_of_its_own(
    open_catalog: Opener,
) -> None:
    one, two = (await open_catalog()).nodes, (await open_catalog()).nodes
    first, second = NodeRow("http://a:1", "x", "s"), NodeRow("http://b:1", "y", "s")
    assert await one.show(first, first=True)
    assert await two.show(second, first=True)
    assert await one.alive() == [first, second]
    twin = NodeRow("http://a:1", "z", "s")
    assert await two.show(twin, first=True)
    assert not await one.show(first)
    assert await two.show(twin)
    await one.leave(first)
    assert await one.alive() == [twin, second]
    await two.leave(twin)
    assert await one.alive() == [second]
