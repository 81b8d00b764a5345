"""Follow another mirror: apply its changes at once, and hold what it holds.

The other mirror is an upstream like any other: its pages and files are fetched and verified as always. Following only
adds the moment: the other mirror's journal (`remote`) reports which page changed and which file it now holds, and the
`follower` fetches both before a client requests them. Its cursor is stored in the catalog, so that a restart continues
where it was; after a longer absence than the journal reaches back, it compares what both mirrors hold. An `Applier`
fetches into the mirror that follows: in the process that serves, or from a command beside it.

Uploads are not transferred as uploads, on purpose: what was uploaded there comes from an upstream here, and what was
uploaded here stays here.
"""

from mirror.airgap.follow.follower import Applier, Follower
from mirror.airgap.follow.remote import NoFeed, RemoteMirror

__all__ = ["Applier", "Follower", "NoFeed", "RemoteMirror"]
