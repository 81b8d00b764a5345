"""Whether an index gives what its list promises, and nothing that it has withdrawn."""

import asyncio
from itertools import islice

from mirror.doctor import Finding, Requirement
from mirror.rubygems.doctor.index import Subject
from mirror.rubygems.log.versions_map import VersionsMap

_TRIED = 4
"""Gems, or versions, of each kind that are looked at: the newest ones."""

_PAGES = Requirement(
    "rubygems/listed-page",
    "A gem that /versions lists has a page.",
    "bundler: after any error for one it leaves the compact index, and walks the legacy one by thousands of requests",
)
_YANKED = Requirement(
    "rubygems/yanked",
    "A version that /versions has taken back cannot be loaded.",
    "who yanked a gem to withdraw it: mirrors and old lock files go on installing it",
)


async def agreement(subject: Subject) -> list[Finding]:
    """Check the pages of some gems that are listed, and some versions that were taken back."""
    root, client = subject.index.root, subject.client
    names, taken_back = await asyncio.to_thread(_newest, subject.body, subject.versions)
    missing: list[str] = []
    for name in names:
        reply = await client.get(root / "info" / name, most=1, part=True)
        if reply.status != 200:
            missing.append(f"/info/{name} is answered {reply.phrase}")
    found = [_PAGES.judge(not missing, ", ".join(missing))]
    there = [
        gem for gem in taken_back if (await client.follow(root / "gems" / gem, most=1, part=True)).status in (200, 206)
    ]
    if taken_back:
        found.append(_YANKED.judge(not there, f"{', '.join(there)} can be loaded"))
    return found


def _newest(body: bytes, versions: VersionsMap) -> tuple[list[str], list[str]]:
    """Return the names listed last, and the file names of the versions that were taken back last."""
    names: dict[str, None] = {}
    taken_back: dict[str, None] = {}
    for line in islice(reversed(body.split(b"\n")), 100_000):
        name, _, rest = line.decode("utf-8", "replace").partition(" ")
        if name in versions and len(names) < _TRIED:
            names[name] = None
        for item in rest.partition(" ")[0].split(","):
            number = item.removeprefix("-")
            if item != number and number not in versions.versions(name) and len(taken_back) < _TRIED:
                taken_back[f"{name}-{number}.gem"] = None
    return list(names), list(taken_back)
