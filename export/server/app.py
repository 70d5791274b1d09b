"""The ASGI application: routes made of the table of operations, and one middleware around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lengthwise.export.server.api import Api
from lengthwise.export.server.openapi import Operation
from lengthwise.export.server.operations import OPERATIONS
from lengthwise.export.server.responses import answer_error
from lengthwise.export.server.settings import split_origins

_CLIENT_CLOSED_REQUEST = 499  # in metrics: no answer was sent


def create_app(api: Api, lifespan: Callable[[Any], Any] | None = None) -> ASGIApp:
    """The application that serves `OPERATIONS`."""
    paths: dict[str, dict[str, Operation]] = {}
    labels: dict[str, str] = {}
    handlers = {operation.handler: operation.path for operation in reversed(OPERATIONS)}
    for operation in OPERATIONS:
        for path in (operation.path, *operation.aliases):
            labels[path] = path if path in paths else handlers[operation.handler]
            paths.setdefault(path, {})[operation.method] = operation
    routes = [
        Route(
            path.replace("{name}", "{name:path}"),
            _Endpoint(api, paths[path], labels[path]),
            methods=[*paths[path], "OPTIONS"],
        )
        for path in sorted(paths, key=_match_order)
    ]
    app: ASGIApp = RequestMiddleware(Router(routes, lifespan=lifespan), api)
    if api.settings.cors_origin is not None:
        app = CORSMiddleware(
            app,
            allow_origins=split_origins(api.settings.cors_origin),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["retry-after"],
        )
    return app


def refuse(error: Exception, api: Api) -> ASGIApp:
    """An application that answers with an error."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return RequestMiddleware(fail, api)


def _match_order(path: str) -> tuple[bool, int]:
    """Names may hold slashes, so of their paths the longest are tried first; all others come before."""
    return "{name}" in path, -path.count("/") if "{name}" in path else 0


class _Endpoint:
    """Runs the operations of one path for those who may call them.

    Attributes:
        label: the route's name in metrics.
    """

    def __init__(self, api: Api, operations: Mapping[str, Operation], label: str) -> None:
        self._api, self.label = api, label
        self._operations = {**operations}
        if "GET" in operations:
            self._operations["HEAD"] = operations["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._operations.get(scope["method"])
        if operation is None:  # OPTIONS
            allowed = ", ".join([*self._operations, "OPTIONS"])
            await Response(status_code=204, headers={"allow": allowed})(scope, receive, send)
            return
        request = Request(scope, receive, send)
        if not operation.public:
            self._api.authorize(request)
        if operation.body is not None:
            self._api.reject_overload(request)
        response = await operation.handler(self._api, request)
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
