"""A bounded memory: keeps what was used last, within a total weight; and how long what it keeps is right."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Key → value, least recently used out first. Not for threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.weight = 0
        """The sum of the weights of what is kept; never above the limit."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """The value, which then counts as just used; or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def peek(self, key: K) -> V | None:
        """The value, which does not count as used; or None."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Keep a value; one that is heavier than the limit is not kept at all."""
        self.forget(key)
        if weight > self._limit:
            return
        self._entries[key] = value, weight
        self.weight += weight
        while self.weight > self._limit:
            _, (_, lost) = self._entries.popitem(last=False)
            self.weight -= lost

    def forget(self, key: K) -> None:
        """Drop a key if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.weight -= entry[1]

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.weight = 0


class Validity:
    """Until when something in memory is right; `live` turns false when something changes before that."""

    __slots__ = ("__weakref__", "live", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.live = True

    def holds(self, now: float) -> bool:
        """Whether it still is."""
        return self.live and now < self.until
