"""Ten thousand idle connections and a hundred slow readers: a new client is served, and memory stays bounded.

How fast it is served is a question for `python -m tests.benchmarks.crowd`.
"""

from pathlib import Path

from tests.benchmarks.crowd import IDLE, MEMORY_BYTES, measure


async def test_a_new_client_is_served_in_a_crowd(tmp_path: Path) -> None:
    crowd = await measure(tmp_path)
    assert crowd.memory < MEMORY_BYTES
    assert crowd.idle > IDLE // 20  # as many as the limit of open files allows
