"""Memory: bounded by weight, least recently used out first."""

from hypothesis import given
from hypothesis import strategies as st

from mirror.index.cache import BoundedCache


def test_the_least_recently_used_goes_first() -> None:
    memory: BoundedCache[str, int] = BoundedCache(2)
    memory.put("a", 1)
    memory.put("b", 2)
    assert memory.get("a") == 1
    memory.put("c", 3)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (1, None, 3)


def test_what_is_heavier_than_everything_is_not_kept() -> None:
    memory: BoundedCache[str, int] = BoundedCache(10)
    memory.put("a", 1, weight=4)
    memory.put("b", 2, weight=11)
    assert "b" not in memory
    assert memory.get("a") == 1


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.booleans())))
def test_the_weight_is_what_is_kept_and_never_above_the_limit(steps: list[tuple[int, int, bool]]) -> None:
    memory: BoundedCache[int, int] = BoundedCache(10)
    weights: dict[int, int] = {}
    for key, weight, forget in steps:
        if forget:
            memory.forget(key)
        else:
            memory.put(key, weight, weight=weight)
            weights[key] = weight
        assert memory.weight <= 10
        assert memory.weight == sum(weights[key] for key in range(9) if key in memory)
