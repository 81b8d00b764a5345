"""To whom the names of gems belong, beyond the order of the upstreams.

A name stays with the first upstream that ever listed it, so that no other one takes it over when the gem is gone there.
The settings and the operator make exceptions: names that are private, and those that several upstreams may give.
"""

from collections.abc import Set

import msgspec

from mirror.index.precedence import Precedence
from mirror.policy import matches


class NameOwners(msgspec.Struct, frozen=True):
    """Which gems no upstream may give, and which do not stay with the first upstream that ever listed them."""

    precedence: Precedence = Precedence()
    released: Set[str] = frozenset()
    """Names that the operator has given up."""

    def is_private(self, name: str) -> bool:
        """Return whether no upstream is asked for a gem."""
        return matches(self.precedence.private, name)

    def passes_on(self, name: str) -> bool:
        """Return whether a gem that its first upstream no longer lists may come from another one."""
        return name in self.released or matches(self.precedence.union, name)
