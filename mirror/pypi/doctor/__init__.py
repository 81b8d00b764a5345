"""What Python clients require of an index: `examine` one, and report in the order in which it is read.

index (find it, and choose a project), pages (the simple pages and the JSON API), files (downloading and uploading).
"""

from functools import partial

from yarl import URL

from mirror.doctor import Check, ExamineOptions, Finding, IndexClient, Requirement, run
from mirror.errors import MirrorError
from mirror.pypi.doctor import files, pages
from mirror.pypi.doctor.index import Subject, choose, find

_READABLE = Requirement(
    "pypi/page",
    "The page of a project can be read.",
    "pip and uv ignore the project, or stop",
)


async def examine(client: IndexClient, url: URL, options: ExamineOptions) -> list[Finding] | None:
    """Return every finding about the index at a URL; None where there is none.

    Raises UpstreamError when nothing answers.
    """
    index = await find(client, url, options.project)
    if index is None:
        return None
    found: list[Finding] = []
    checks: list[Check] = []
    try:
        checks += _checks(await choose(index, options.project, options.held))
    except MirrorError as error:
        found.append(_READABLE.after(error, hint="Name another with --project."))
    if options.upload and options.token:
        checks += files.uploads(index, options.upload, options.token)
    return found + await run("pypi", checks)


def _checks(subject: Subject) -> list[Check]:
    every = (pages.negotiation, pages.addresses, pages.content, pages.beside, files.file, files.metadata)
    return [partial(check, subject) for check in every]
