"""Which sources may answer for a name: pure decisions, made of what each source said of it.

A source that comes later in the settings must not take a name from an earlier one (dependency confusion): it is asked
only where every earlier source said just now that there is no such project, and none of them ever had it. While an
earlier one is silent, whatever the reason, a later one goes on giving what this repository has shown of it before.
Who had a name keeps it, also after the last file is deleted, until the operator releases the name.

The surprise: a name is not free because nothing is there. Deleted uploads, a page that is 404 by now (as many indexes
answer when a token has expired) and 410 all mean that the name belongs to that source.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Literal

import msgspec

from mirror.policy import matches


class Precedence(msgspec.Struct, frozen=True, kw_only=True):
    """Which names are not simply those of the first source that has them: patterns, spelled as canonical names are."""

    private: tuple[str, ...] = ()
    """No upstream is asked for these."""
    union: tuple[str, ...] = ()
    """The files of all sources are shown together."""


class Reply(Enum):
    """The reply of a source that was asked for a project."""

    HAS = auto()
    """It has the project."""
    MISSING = auto()
    """It said just now, in as many words, that there is none (404); or its list, where that decides, has it not."""
    SILENT = auto()
    """Nothing that counts: it is down, slow, closed to us, not asked, or answers with something that is no index."""


class SourceReply(msgspec.Struct, frozen=True):
    """The reply of one source, in the light of what it replied before."""

    now: Reply
    had: bool = False
    """Whether it ever had the project, and the name was not released since. 410 Gone says so, too."""


class Permission(Enum):
    """The permission of a source to give a project, after all that come before it."""

    ASK = auto()
    """It may answer, as if it were the first."""
    HELD = auto()
    """It may give what is stored of it and was shown here before; it is not asked for anything new."""
    NOT = auto()
    """It may give nothing: an earlier source has the name."""


def permission(earlier: Sequence[SourceReply]) -> Permission:
    """Return what the next source may give, after the replies of all that come before it."""
    if any(reply.now is Reply.HAS or reply.had for reply in earlier):
        return Permission.NOT
    return Permission.HELD if any(reply.now is Reply.SILENT for reply in earlier) else Permission.ASK


class SourceChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which sources may answer for a project, and by which rule."""

    rule: Literal["private", "union", "uploaded", "first"]
    why: str
    upstream: bool
    """Whether upstreams may be asked at all; when not, the name never leaves this machine."""
    union: bool
    """The `union` argument of `merge`."""


FIRST = SourceChoice(rule="first", why="The first upstream that has it wins.", upstream=True, union=False)
"""The choice where nothing is configured and nothing was uploaded."""


def choose(name: str, precedence: Precedence, *, uploaded: bool) -> SourceChoice:
    """Return which sources may answer for a project: decided before any upstream is asked.

    `uploaded`: it has uploads here, or had some and was not released since.
    """
    if matches(precedence.private, name):
        return SourceChoice(
            rule="private", why="The name is declared private: only uploads count.", upstream=False, union=False
        )
    if matches(precedence.union, name):
        return SourceChoice(
            rule="union", why="The name is declared a union: the files of all sources show.", upstream=True, union=True
        )
    if uploaded:
        return SourceChoice(
            rule="uploaded", why="It has uploads here, which hide every upstream's.", upstream=False, union=False
        )
    return FIRST


def chosen(choice: SourceChoice, having: Sequence[str]) -> str:
    """Return the choice in a line for people; `having` are the sources that have the project, in their order."""
    shown = having if choice.union else having[:1]
    return f"{choice.why} Shown: {', '.join(shown) or 'nothing, no source has it'} (rule {choice.rule!r})."
