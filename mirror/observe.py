"""What is noted of every answer: one line in the access log, one count in the metrics."""

from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from mirror.http import KIND, OUTCOME, REPOSITORY
from mirror.log import AccessLog, request_id
from mirror.metrics import Kind, Metrics


def observed(access: AccessLog | None, metrics: Metrics) -> type[AbstractAccessLogger]:
    """The class that aiohttp tells of each answer once its last byte is written."""

    class Observer(AbstractAccessLogger):
        enabled = True

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            outcome: Any = request.get(OUTCOME, "")
            sent = response.body_length
            kind = cast(Kind, request.get(KIND, "other"))
            metrics.answered(request.get(REPOSITORY, ""), kind, outcome, response.status, sent, time)
            if access is not None:
                headers = request.headers
                access.add(
                    request_id(headers.get("X-Request-ID", "")),
                    request.remote or "",
                    request.method,
                    request.path_qs,
                    response.status,
                    sent,
                    time,
                    outcome,
                    headers.get("User-Agent", ""),
                )

    return Observer
