"""When an upstream may be asked: one address, one class of URLs, one host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.model import UrlClass
from mirror.upstream.pacing import MOST_ADDRESSES, MOST_HOSTS, HostPacing, Hosts, client_wait


def host(failures: int = 3, seconds: float = 30, api: float = 0) -> HostPacing:
    return HostPacing(failures, seconds, {"api": api} if api else {})


def seconds(pacing: HostPacing, address: int, kind: UrlClass, now: float) -> float:
    """How long a request has to wait."""
    hold = pacing.blocked(address, kind, now)
    return hold.seconds if hold else 0.0


# One address


@pytest.mark.parametrize(("asked", "first", "free"), [(5, 5, 5), (60, 30, 60), (3600, 30, 60)])
def test_an_address_that_asks_for_a_pause_gets_it_for_a_minute_at_most_and_alone(
    asked: float, first: float, free: float
) -> None:
    one = host()
    one.failed(1, "file", 0, asked)
    assert seconds(one, 1, "file", 0) == first
    assert seconds(one, 2, "file", 0) == seconds(one, 3, "page", 0) == 0
    if first < free:  # one request finds out whether it answers again
        assert one.admit(1, "file", first) is None
        assert seconds(one, 1, "file", first) == 30
    assert seconds(one, 1, "file", free) == 0
    assert one.admit(1, "file", free) is None
    assert one.admit(1, "file", free) is None


def test_a_good_answer_ends_the_pause_of_its_address() -> None:
    one = host()
    one.failed(1, "file", 0, 60)
    one.succeeded(1, "file", 0, 1)
    assert seconds(one, 1, "file", 1) == 0
    assert not one.troubled


def test_an_address_that_keeps_failing_pauses_alone() -> None:
    one = host(failures=3)
    for now in range(3):
        assert seconds(one, 1, "page", now) == 0
        one.failed(1, "page", now)
    assert seconds(one, 1, "page", 2) == 30
    assert seconds(one, 2, "page", 2) == 0
    assert one.state(2) == "closed"
    assert seconds(one, 1, "page", 32) == 0


def test_no_more_addresses_are_remembered_than_is_sensible() -> None:
    one = host(failures=10_000)
    for address in range(5000):
        one.failed(address, "file", 0, 60)
    assert len(one._addresses) == MOST_ADDRESSES
    assert seconds(one, 4999, "file", 0) > 0


# One class of URLs


def test_a_class_pauses_after_different_addresses_have_failed_with_nothing_good_between() -> None:
    one = host(failures=3)
    for address in (1, 2, 2, 2, 1):
        one.failed(address, "api", 0)
    one.succeeded(9, "api", 0, 0)
    one.failed(3, "api", 0)
    one.failed(4, "api", 0)
    assert seconds(one, 8, "api", 0) == 0
    one.failed(5, "api", 0)
    assert seconds(one, 8, "api", 0) == 30
    for other in ("page", "list", "file", "sidecar"):
        assert seconds(one, 8, other, 0) == 0
    assert one.state(0) == "closed"
    assert one.paused(0) == {"api": 30}
    assert seconds(one, 8, "api", 30) == 0


def test_a_429_is_no_failure_and_one_of_them_slows_nothing_down() -> None:
    one = host(failures=1)
    for now in range(20):
        one.limited(1, "page", now, now)
    assert seconds(one, 1, "page", 20) == seconds(one, 2, "page", 20) == 0
    assert one.delay("page", 20, 30) == 0


def test_a_class_that_is_limited_at_different_addresses_is_slowed_down_and_grows_again() -> None:
    one = host()
    one.succeeded(0, "page", 0, 0)
    one.limited(1, "page", 0, 0)
    one.succeeded(0, "page", 0, 0)
    one.limited(2, "page", 0, 0)
    one.limited(3, "page", -1, 0)  # under way at the same time: it says nothing new
    delays = [one.delay("page", 1, 30) for _ in range(4)]
    assert delays == pytest.approx([0, 0.2, 0.4, 0.6])  # ten requests a second, halved
    assert one.delay("file", 1, 30) == 0
    for _ in range(60):
        one.succeeded(0, "page", 1, 2)
    assert one.delay("page", 2, 30) == pytest.approx(0)
    assert one.delay("page", 2, 30) < 0.02
    one.succeeded(0, "page", 70, 70)  # nothing was limited for a minute
    assert [one.delay("page", 70, 30) for _ in range(100)] == [0] * 100
    assert not one.troubled


def test_a_class_all_of_whose_addresses_are_limited_pauses() -> None:
    one = host()
    for address in (1, 2, 3):
        assert seconds(one, 9, "api", 0) == 0
        one.limited(address, "api", 0, 0, 3600)
    hold = one.blocked(9, "api", 0)
    assert hold is not None
    assert (hold.seconds, hold.asked) == (30, True)
    assert seconds(one, 9, "page", 0) == seconds(one, 9, "file", 0) == 0
    one.succeeded(8, "api", began=-1, now=1)  # an answer to an older question
    assert seconds(one, 9, "api", 1) == 29
    assert seconds(one, 9, "api", 60) == 0


def test_a_class_with_a_rate_is_always_paced() -> None:
    one = host(api=10)
    delays = [one.delay("api", 100, 30) for _ in range(30)]
    assert delays == pytest.approx([0] * 10 + [0.1 * number for number in range(1, 21)])
    assert one.delay("page", 100, 30) == 0
    assert one.delay("api", 200, 30) == 0


def test_a_turn_that_comes_too_late_is_not_taken() -> None:
    one = host(api=1)
    assert [one.delay("api", 0, 2) for _ in range(5)] == pytest.approx([0, 1, 2, 3, 3])


# One host


def test_a_host_pauses_when_it_cannot_be_reached_and_one_request_finds_out() -> None:
    one = host(failures=3)
    for now in range(3):
        assert (one.state(now), seconds(one, now, "page", now)) == ("closed", 0)
        one.unreachable(now, slow=False)
    assert (one.state(2), seconds(one, 9, "file", 2)) == ("open", 30)
    assert one.admit(9, "file", 31) is not None
    assert (one.state(32), one.admit(9, "file", 32)) == ("half-open", None)
    assert (one.state(33), seconds(one, 8, "page", 33)) == ("half-open", 29)
    one.unreachable(34, slow=False)
    assert (one.state(34), seconds(one, 8, "page", 34)) == ("open", 30)
    assert one.admit(8, "page", 64) is None
    one.succeeded(8, "page", 64, 65)
    assert (one.state(65), seconds(one, 9, "file", 65)) == ("closed", 0)
    assert not one.troubled


def test_a_probe_that_is_never_heard_of_again_blocks_nobody_for_ever() -> None:
    one = host(failures=1)
    one.unreachable(0, slow=False)
    assert one.admit(1, "page", 30) is None
    assert one.admit(1, "page", 59) is not None
    assert one.admit(1, "page", 60) is None


def test_one_slow_connect_is_no_silent_host() -> None:
    one = host(failures=5)
    one.unreachable(0, slow=True)
    one.unreachable(0, slow=True)
    assert one.state(0) == "closed"
    one.unreachable(0, slow=True)
    assert one.state(0) == "open"


def test_silence_counts_against_the_host_only_when_it_answers_nothing_else() -> None:
    one = host(failures=3)
    for address in range(10):
        one.reached(address + 0.5)
        one.silent(address, began=address, now=address + 1)
        assert seconds(one, address, "page", address + 1) == 30
    assert seconds(one, 99, "page", 11) == 0
    one.silent(1, began=20, now=40)
    one.silent(1, began=40, now=60)
    assert seconds(one, 99, "page", 60) == 0  # the same address again
    one.silent(2, began=40, now=60)
    assert seconds(one, 99, "page", 60) == 30


def test_an_error_is_an_answer_and_ends_the_pause_of_a_host() -> None:
    one = host(failures=1)
    one.unreachable(0, slow=False)
    one.reached(30)
    one.failed(1, "page", 30)
    assert one.state(30) == "closed"


# All hosts


def test_the_state_of_an_upstream_is_that_of_its_worst_host_and_of_what_clients_need() -> None:
    hosts = Hosts(2, 30)
    index, files = hosts.add(("index.example", 443)), hosts.add(("files.example", 443))
    assert hosts.worst_state(0) == ("closed", 0, ())
    for address in (1, 2):
        index.failed(address, "api", 0)
    assert hosts.worst_state(0) == ("closed", 0, ("api",))
    for address in (1, 2):
        files.failed(address, "file", 10)
    assert hosts.worst_state(10) == ("open", 30, ("api", "file"))
    index.unreachable(20, slow=True)
    assert hosts.worst_state(20) == ("open", 30, ("api", "file"))
    assert hosts.worst_state(60) == ("half-open", 0, ())


def test_no_more_hosts_are_remembered_than_is_sensible() -> None:
    hosts = Hosts(1, 30)
    for number in range(1000):
        hosts.add((f"{number}.example", 443)).unreachable(0, slow=True)
    assert len(hosts.known) == MOST_HOSTS


@pytest.mark.parametrize(("left", "wait"), [(0, 10), (5, 10), (20, 20), (60, 30), (float("inf"), 30)])
def test_clients_are_asked_to_wait_ten_to_thirty_seconds(left: float, wait: float) -> None:
    assert client_wait(left) == wait


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["failed", "limited", "silent", "unreachable", "good", "ask"]),
            st.integers(0, 9),
            st.floats(0, 20),
            st.sampled_from([0.0, 1.0, 5000.0]),
        ),
        max_size=200,
    )
)
def test_whatever_happens_nothing_waits_for_longer_than_half_a_minute(
    events: list[tuple[str, int, float, float]],
) -> None:
    one, now = host(), 0.0
    for what, address, passed, asked in events:
        began, now = now, now + passed
        match what:
            case "failed":
                one.failed(address, "page", now, asked)
            case "limited":
                one.limited(address, "page", began, now, asked)
            case "silent":
                one.silent(address, began, now)
            case "unreachable":
                one.unreachable(now, slow=bool(asked))
            case "good":
                one.succeeded(address, "page", began, now)
            case _:
                one.admit(address, "page", now)
        for other in range(10):
            assert 0 <= seconds(one, other, "page", now) <= 30.001
        assert one.troubled or all(seconds(one, other, "page", now) == 0 for other in range(10))
