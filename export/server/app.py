"""The ASGI application: routes made of the table of operations, and one middleware around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lengthwise.export.server.api import Api
from lengthwise.export.server.openapi import Operation
from lengthwise.export.server.operations import OPERATIONS
from lengthwise.export.server.responses import answer_error

_CLIENT_CLOSED_REQUEST = 499  # in metrics: no answer was sent


def create_app(api: Api, lifespan: Callable[[Any], Any] | None = None) -> ASGIApp:
    """The application that serves `OPERATIONS`."""
    labels = {operation.handler: operation.path for operation in reversed(OPERATIONS)}
    routes = [
        Route(path, _Endpoint(api, operation, labels[operation.handler]), methods=[operation.method])
        for operation in OPERATIONS
        for path in (operation.path, *operation.aliases)
    ]
    return RequestMiddleware(Router(routes, lifespan=lifespan), api)


class _Endpoint:
    """Runs one operation for those who may call it.

    Attributes:
        label: the route's name in metrics.
    """

    def __init__(self, api: Api, operation: Operation, label: str) -> None:
        self._api, self._operation, self.label = api, operation, label

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if not self._operation.public:
            self._api.authorize(request)
        if self._operation.body is not None:
            self._api.reject_overload(request)
        response = await self._operation.handler(self._api, request)
        await response(scope, receive, send)


class RequestMiddleware:
    """Turns exceptions into answers, counts answers, and closes connections while the server shuts down."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self._app, self._api = app, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # Router then raises for an unknown path or method, instead of answering by itself
        status = None

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._api.service is not None and self._api.service.state == "draining":
                    MutableHeaders(raw=message["headers"])["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except ClientDisconnect:
            pass
        except Exception as error:
            if status is not None:  # an answer was begun: the server cuts the connection
                raise
            answer = answer_error(error, scope["method"], scope["path"])
            if answer.rejection is not None:
                self._api.metrics.rejected.labels(answer.rejection).inc()
            await answer.to_response(scope["path"])(scope, receive, send_counted)
        finally:
            label = getattr(scope.get("endpoint"), "label", "other")
            self._api.metrics.requests.labels(label, str(status or _CLIENT_CLOSED_REQUEST)).inc()
