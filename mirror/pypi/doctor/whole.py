"""A whole Python index, in the order in which a reader wants to hear of it."""

from functools import partial

from yarl import URL

from mirror.doctor import Asking, Check, Finding, Requirement, Wishes, run
from mirror.errors import MirrorError
from mirror.pypi.doctor import files, pages
from mirror.pypi.doctor.index import Subject, choose, find
from mirror.pypi.doctor.upload import uploads

_READABLE = Requirement(
    "pypi/page",
    "The page of a project can be read.",
    "pip and uv pass over the project, or end",
)


async def examine(asking: Asking, url: URL, wishes: Wishes) -> list[Finding] | None:
    """Every finding about the index at a URL; None where there is none. Raises UpstreamError when nothing answers."""
    index = await find(asking, url, wishes.project)
    if index is None:
        return None
    found: list[Finding] = []
    checks: list[Check] = []
    try:
        checks += _checks(await choose(index, wishes.project, wishes.held))
    except MirrorError as error:
        found.append(_READABLE.after(error, hint="Name another with --project."))
    if wishes.upload and wishes.token:
        checks += uploads(index, wishes.upload, wishes.token)
    return found + await run("pypi", checks)


def _checks(subject: Subject) -> list[Check]:
    every = (pages.negotiation, pages.addresses, pages.content, pages.beside, files.file, files.metadata)
    return [partial(check, subject) for check in every]
