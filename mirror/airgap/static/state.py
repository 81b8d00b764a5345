"""What an export wrote, kept in the tree, so that the next one need only write what has changed since.

It is believed only by an export of the same things from the same catalog after one that came to its end: what is
overwritten by one that was killed is in no state. Whoever may write to the tree may write this, so nothing in it is
trusted further than to leave a file as it is, or to remove one inside of the tree.
"""

from pathlib import Path

import msgspec

from mirror.airgap.static.tree import Tree

FILE = "state.json"
UNFINISHED = "unfinished"
VERSION = 1
_LIMIT = 1 << 30


class Shown(msgspec.Struct, frozen=True):
    """One project in the tree."""

    stamp: str
    """Equal stamps, and no event in the feed: nothing has changed before `until`."""
    until: float | None
    """When policy alone changes what is shown, in seconds since the epoch."""
    entry: str
    files: int
    paths: dict[str, str]
    """Every file of the project → SHA-256 of what it holds. A project that shows nothing has none."""


class State(msgspec.Struct, frozen=True):
    """Everything in the tree."""

    origin: str = ""
    """What it was made of, and how: states of different origins have nothing to do with each other."""
    serial: int = 0
    """The last event of the feed that is in it."""
    projects: dict[str, dict[str, Shown]] = {}
    """Repository → project → what it shows."""
    pages: dict[str, str] = {}
    """The pages about everything → SHA-256."""
    version: int = VERSION

    def paths(self) -> dict[str, str]:
        """Every file → SHA-256."""
        everything = dict(self.pages)
        for projects in self.projects.values():
            for shown in projects.values():
                everything |= shown.paths
        return everything


def begin(tree: Tree) -> State | None:
    """The state that the tree is in, None when nobody can say; from here on nobody can, until `finish`."""
    unfinished = tree.own / UNFINISHED
    state = None if unfinished.exists() else _read(tree.own / FILE)
    tree.write_own(UNFINISHED, b"An export is writing here, or was killed. The next one looks at every file.\n")
    return state


def finish(tree: Tree, state: State) -> None:
    """From here on the tree is in this state."""
    tree.write_own(FILE, msgspec.json.encode(state))
    (tree.own / UNFINISHED).unlink()


def _read(file: Path) -> State | None:
    try:
        if file.stat().st_size > _LIMIT:
            return None
        state = msgspec.json.decode(file.read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return state if state.version == VERSION else None
