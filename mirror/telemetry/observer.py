"""What is noted of every answer: one line in the access log, one count in the metrics."""

from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from mirror.model import Outcome
from mirror.server.connection import connection_of
from mirror.server.negotiate import GIVEN_ID, RequestSummary, client_of, note
from mirror.server.replay import Replay
from mirror.telemetry.log import AccessLog, request_id
from mirror.telemetry.metrics import Kind, Metrics


class Observer:
    """Takes down answers, from aiohttp and from the fast lane alike."""

    def __init__(self, access: AccessLog | None, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics

    def take(
        self, note: RequestSummary, client: str, status: int, sent: int, seconds: float, given_id: str = ""
    ) -> None:
        """One answer: `sent` bytes of body, the last of them after `seconds`."""
        outcome = cast(Outcome, note.outcome)
        self._metrics.answered(note.repository, cast(Kind, note.kind), outcome, status, sent, seconds)
        if self._access is not None:
            self._access.add(
                request_id(given_id), client, note.method, note.path, status, sent, seconds, outcome, note.agent
            )

    def hit(self, ready: Replay, client: str) -> None:
        """One answer of the fast lane."""
        self.take(ready.notes, client, ready.status, len(ready.body), 0.0)

    def logger(self) -> type[AbstractAccessLogger]:
        """The class that aiohttp tells of each answer once its last byte is written."""
        observer = self

        class Logger(AbstractAccessLogger):
            enabled = True

            def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
                if (connection := connection_of(request)) is not None:
                    connection.response_finished()
                given = request.get(GIVEN_ID, "")
                observer.take(note(request), client_of(request), response.status, _sent(request, response), time, given)

        return Logger


def _sent(request: web.BaseRequest, response: web.StreamResponse) -> int:
    """Bytes of body; aiohttp counts the head of its own answers among them."""
    if isinstance(response, web.Response):
        return 0 if request.method == "HEAD" else response.content_length or 0
    return response.body_length
