"""What is recorded of every response: one line in the access log, one count in the metrics."""

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from mirror.server.connection import connection_of
from mirror.server.facts import RequestFacts, facts_of
from mirror.server.replay import Replay
from mirror.telemetry.log import AccessLog, request_id
from mirror.telemetry.metrics import Metrics


class Observer:
    """Records responses, from aiohttp and from replays alike."""

    def __init__(self, access: AccessLog | None, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics

    def record(self, facts: RequestFacts, client: str, status: int, sent: int, seconds: float) -> None:
        """Record one response: `sent` bytes of body, the last of them after `seconds`."""
        self._metrics.answered(facts.repository, facts.kind, facts.outcome, status, sent, seconds)
        if self._access is not None:
            self._access.add(
                request_id(facts.request_id), client, facts.method, facts.path, status, sent, seconds, facts.outcome,
                facts.agent,
            )  # fmt: skip

    def record_replay(self, replay: Replay, client: str) -> None:
        """Record one replay, sent to the client at an address."""
        self.record(replay.facts, client, replay.status, len(replay.body), 0.0)

    def logger(self) -> type[AbstractAccessLogger]:
        """Return the class whose instance aiohttp calls for each response once its last byte is written."""
        observer = self

        class Logger(AbstractAccessLogger):
            enabled = True

            def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
                if (connection := connection_of(request)) is not None:
                    connection.response_finished()
                facts = facts_of(request)
                observer.record(facts, facts.client, response.status, _sent(request, response), time)

        return Logger


def _sent(request: web.BaseRequest, response: web.StreamResponse) -> int:
    """Return the bytes of the body that were sent; aiohttp counts the head of its own responses among them."""
    if isinstance(response, web.Response):
        return 0 if request.method == "HEAD" else response.content_length or 0
    return response.body_length
