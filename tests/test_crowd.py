"""Ten thousand idle connections and a hundred slow readers: a new client hardly notices, and memory stays bounded."""

from pathlib import Path

from tests.benchmarks.crowd import IDLE, Crowd, measure


async def test_a_new_client_is_served_in_a_crowd_within_twice_its_usual_time(tmp_path: Path) -> None:
    crowds: list[Crowd] = []
    for attempt in range(3):  # the machine may be busy with something else for a while
        crowds.append(await measure(tmp_path / str(attempt)))
        assert crowds[-1].memory < 500_000_000
        if crowds[-1].ratio <= 2:
            break
    assert min(crowd.ratio for crowd in crowds) <= 2, crowds
    assert crowds[0].idle > IDLE // 20  # as many as the limit of open files allows
