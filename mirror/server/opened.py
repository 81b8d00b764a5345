"""What the routes of every repository say alike: what is noted of an answer, as of when, and a file that was opened.

Which URL is which, and who may ask, is for the routes of each ecosystem.
"""

from collections.abc import Awaitable
from datetime import datetime

from aiohttp import web

from mirror.index.cache import Validity
from mirror.index.repository import Repository
from mirror.index.source import OpenFile
from mirror.model import File
from mirror.policy import moment
from mirror.server.facts import RequestKind, facts_of
from mirror.server.respond import http_date, send


def note_kind(request: web.BaseRequest, repository: Repository, kind: RequestKind) -> None:
    """Leave in the request whose answer it gets and what that is, for the log and the metrics."""
    facts = facts_of(request)
    facts.repository, facts.kind = repository.name, kind


def note_removed(request: web.BaseRequest, repository: Repository, project: str, file: File) -> bool:
    """Whether a file that was just opened has been taken back by upstream; leaves that in the request."""
    removed = repository.removed(project, file.filename)
    if removed:
        facts_of(request).removed = file.source, project, file.filename
    return removed


def repeatable(repository: Repository, project: str, opened: OpenFile, removed: bool = False) -> Validity | None:
    """For how long a file that was just opened may be answered again without a question; None: not at all."""
    held = opened.outcome in ("hit", "offline")
    return repository.validity(project) if held and not removed else None  # who fetches a removed one is always noted


def moment_of(request: web.Request) -> datetime | None:
    """The moment that the client asks about, below `/at/DATE`; None: now. Raises Invalid."""
    date = request.match_info.get("date")
    return None if date is None else moment(date)


def send_opened(
    request: web.BaseRequest,
    opened: OpenFile,
    *,
    content_type: str,
    shared: bool,
    uploaded: datetime | None = None,
    validity: Validity | None = None,
) -> Awaitable[web.StreamResponse]:
    """Answer with a file or sidecar; the rest as `send` has it."""
    facts_of(request).outcome = opened.outcome
    return send(
        request,
        opened.body,
        content_type=content_type,
        headers=[("X-Mirror-Cache", opened.outcome)],
        modified=http_date(uploaded) if uploaded else None,
        validity=validity,
        shared=shared,
    )
