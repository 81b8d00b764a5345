"""Follow another mirror: have here at once what changes there, and hold what it holds.

The other mirror is an upstream like any other: its pages and files come, and are verified, as they always do. What is
here besides is only when: its journal (`remote`) says which page to ask for again and which file it now holds, and the
`follower` has both here before anybody asks. How far it has come is kept in the catalog, so that a restart goes on
where it was; who has been away for longer than the journal goes back compares what both hold. A `Applier` is how the
mirror that follows is told what to do: in the process that serves, or by a command beside it.

Not here on purpose: uploads never travel as uploads. What was uploaded there is upstream's here, and what was uploaded
here stays here.
"""

from mirror.airgap.follow.follower import Applier, Follower
from mirror.airgap.follow.remote import FeedBatch, FeedLine, HeldFileLine, Lost, NoFeed, RemoteMirror

__all__ = [
    "Applier",
    "FeedBatch",
    "FeedLine",
    "Follower",
    "HeldFileLine",
    "Lost",
    "NoFeed",
    "RemoteMirror",
]  # fmt: skip
