"""What was measured, against what was to be reached; as text and as the README's table."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure, and the bound on it (`target`: at least or at most, as `better` says) where there is one."""

    what: str
    ours: str
    beside: str = ""
    """The same of whoever stands beside us."""
    figure: float
    unit: str = "x"
    target: float | None = None
    better: Literal["more", "less"] = "more"

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.figure >= self.target if self.better == "more" else self.figure <= self.target


def shown(row: Row) -> tuple[str, str, str, str, str]:
    """The cells of a row."""
    target = "" if row.target is None else f"{'≥' if row.better == 'more' else '≤'} {_number(row.target)}"
    verdict = {None: "", True: "yes", False: "NO"}[row.met]
    return row.what, row.ours, row.beside, f"{_number(row.figure)} {row.unit}", f"{target} {verdict}".strip()


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


HEADER = ("", "mirror", "nginx", "figure", "wanted")


def text(row: Row) -> str:
    """A row as one line of the report."""
    what, ours, beside, figure, wanted = shown(row)
    return f"{what:<58} {ours:>15} {beside:>15} {figure:>10}  {wanted}"


def markdown(rows: Sequence[Row]) -> str:
    """All rows as the README has them."""
    line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    return "\n".join([line(HEADER), "|---|--:|--:|--:|---|", *(line(shown(row)) for row in rows)])
