"""What Ruby clients require of a gem index: `examine` one, and report in the order in which it is read.

index (find it, and choose a gem), checks (the compact index, gems, the legacy index),
agreement (between lists, pages and gems), upload (pushing).
"""

from functools import partial

from yarl import URL

from mirror.doctor import Check, ExamineOptions, Finding, IndexClient, Requirement, run
from mirror.errors import MirrorError
from mirror.rubygems.doctor import checks
from mirror.rubygems.doctor.agreement import agreement
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


async def examine(client: IndexClient, url: URL, options: ExamineOptions) -> list[Finding] | None:
    """Return every finding about the index at a URL; None where there is none.

    Raises UpstreamError when nothing responds.
    """
    index = await find(client, url)
    if index is None:
        return None
    if not index.compact:
        return [_COMPACT.fails("/versions is not there")]
    found: list[Finding] = []
    wanted: list[Check] = []
    try:
        wanted += _checks(await choose(index, options.project, options.held))
    except MirrorError as error:
        found.append(_READABLE.after(error, hint="Name another with --gem."))
    if options.upload and options.token:
        wanted += uploads(index, options.upload, options.token)
    return found + await run("rubygems", wanted)


def _checks(subject: Subject) -> list[Check]:
    every = (checks.headers, checks.updates, checks.versions, checks.file, checks.legacy, checks.gemspec, agreement)
    return [partial(check, subject) for check in every]
