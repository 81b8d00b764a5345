"""A whole gem index, in the order in which a reader wants to hear of it."""

from functools import partial

from yarl import URL

from mirror.doctor import Asking, Check, Finding, Requirement, Wishes, run
from mirror.errors import MirrorError
from mirror.rubygems.doctor import files, pages
from mirror.rubygems.doctor.index import Subject, choose, find
from mirror.rubygems.doctor.upload import uploads

_READABLE = Requirement(
    "rubygems/page",
    "The page of a gem can be read.",
    "bundler leaves the compact index; nothing of the gem can be installed",
)
_COMPACT = Requirement(
    "rubygems/compact-index",
    "There is a compact index (/versions, /info).",
    "bundler walks the legacy index instead, by thousands of requests; gem from 4.1 on reads nothing else",
)


async def examine(asking: Asking, url: URL, wishes: Wishes) -> list[Finding] | None:
    """Every finding about the index at a URL; None where there is none. Raises UpstreamError when nothing answers."""
    index = await find(asking, url)
    if index is None:
        return None
    if not index.compact:
        return [_COMPACT.fails("/versions is not there")]
    found: list[Finding] = []
    checks: list[Check] = []
    try:
        checks += _checks(await choose(index, wishes.project, wishes.held))
    except MirrorError as error:
        found.append(_READABLE.after(error, hint="Name another with --gem."))
    if wishes.upload and wishes.token:
        checks += uploads(index, wishes.upload, wishes.token)
    return found + await run("rubygems", checks)


def _checks(subject: Subject) -> list[Check]:
    every = (pages.headers, pages.updates, pages.versions, files.file, files.legacy, files.gemspec)
    return [partial(check, subject) for check in every]
