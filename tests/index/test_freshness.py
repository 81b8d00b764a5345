"""Freshness: when a stored page is served, refreshed behind, or asked for."""

import pytest

from mirror.index.freshness import Ages, Decision, Freshness, decide, stands_in
from mirror.index.page_store import fresh_until
from mirror.model import Stamp

AGES = Ages(fresh=600, stale_while_revalidate=300, stale_if_error=1000, negative=60)


@pytest.mark.parametrize(
    ("age", "decision"),
    [
        (0, Decision.SERVE),
        (599, Decision.SERVE),
        (600, Decision.SERVE_AND_REFRESH),
        (899, Decision.SERVE_AND_REFRESH),
        (900, Decision.ASK),
    ],
)
def test_age_decides(age: float, decision: Decision) -> None:
    assert decide(Stamp(1000, True), 1000 + age, AGES) is decision


@pytest.mark.parametrize(("age", "decision"), [(59, Decision.SERVE), (60, Decision.ASK)])
def test_a_missing_page_is_believed_for_a_short_while(age: float, decision: Decision) -> None:
    assert decide(Stamp(1000, False), 1000 + age, AGES) is decision


def test_a_clock_set_back_does_not_make_pages_immortal() -> None:
    assert decide(Stamp(10_000, True), 5_000, AGES) is Decision.ASK


def test_a_client_that_demands_now_is_obeyed() -> None:
    assert decide(Stamp(1000, True), 1001, AGES, freshness=Freshness.NOW) is Decision.ASK


@pytest.mark.parametrize(
    ("age", "found", "listed", "decision"),
    [
        (0, True, None, Decision.SERVE),
        (1.9, True, None, Decision.SERVE),
        (2, True, None, Decision.ASK),
        (-1, True, None, Decision.ASK),
        (1, False, None, Decision.SERVE),
        (1, True, "r", Decision.SERVE),
        (1, True, "newer", Decision.ASK),
        (3, True, "r", Decision.ASK),
    ],
)
def test_for_clients_that_demand_now_a_page_is_asked_for_once_in_a_while(
    age: float, found: bool, listed: str | None, decision: Decision
) -> None:
    ages, stamp = Ages(recheck=2), Stamp(1000, found, "r")
    assert decide(stamp, 1000 + age, ages, listed=listed, freshness=Freshness.NOW) is decision
    assert decide(stamp, 1000 + age, ages, listed=listed, freshness=Freshness.ANEW) is Decision.ASK


def test_any_age_will_do_for_finding_a_file_but_an_absence_will_not() -> None:
    assert decide(Stamp(0, True), 10**9, AGES, freshness=Freshness.ANY) is Decision.SERVE
    assert decide(Stamp(0, False), 10**9, AGES, freshness=Freshness.ANY) is Decision.ASK


def test_a_page_listed_by_revision_has_no_age() -> None:
    old = Stamp(0, True, "same")
    assert decide(old, 10**9, AGES, listed="same") is Decision.SERVE
    assert decide(old, 1, AGES, listed="other") is Decision.ASK
    assert decide(old, 10**9, AGES, listed="same", freshness=Freshness.NOW) is Decision.ASK


def test_a_stored_page_stands_in_for_a_failing_upstream_within_its_limit() -> None:
    assert stands_in(Stamp(0, True), 1599, AGES)
    assert not stands_in(Stamp(0, True), 1600, AGES)
    assert stands_in(Stamp(0, True), 10**9, Ages())
    assert not stands_in(Stamp(0, False), 1, AGES)


def test_fresh_until_is_the_first_moment_of_doubt() -> None:
    stamp = Stamp(1000, True)
    assert decide(stamp, fresh_until(stamp, AGES) - 0.001, AGES) is Decision.SERVE
    assert decide(stamp, fresh_until(stamp, AGES), AGES) is not Decision.SERVE


def test_a_page_that_upstream_has_come_to_list_is_asked_for_however_lately_it_was_missing() -> None:
    missing = Stamp(1000, False)
    assert decide(missing, 1001, AGES, listed="a") is Decision.ASK
    assert decide(missing, 1001, AGES) is Decision.SERVE
