"""The routes.

Notable decisions:
- A place in the queue is taken before a body is parsed, and where there is none, a request is refused before its body
  is read: what cannot be taken costs next to nothing.
- Parsing and tokenizing run in the pool, and the event loop only moves bytes. A body of a few hundred bytes is the
  exception: to hand it over takes longer than to read it.
- A body is parsed by pydantic's own parser, which bounds its depth, and refuses NaN and lone surrogates.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lengthwise import __version__
from lengthwise.errors import LengthwiseError
from lengthwise.export.server import open_inference as protocol
from lengthwise.export.server.bodies import (
    Body,
    EmbedBody,
    EmbeddingsBody,
    Given,
    InferBody,
    Refused,
    TokenizeBody,
    read_body,
    read_items,
    read_texts,
)
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.openapi import describe, docs_page
from lengthwise.export.server.queue import Closed, Overloaded
from lengthwise.export.server.service import BadItem, DeadlineExceeded, Service, TooMuch
from lengthwise.export.server.settings import ServeSettings
from lengthwise.tokens.ragged import RaggedTokens

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")
BodyT = TypeVar("BodyT", bound=Body)
T = TypeVar("T")
_OPEN = ("/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
_OF_PAGES = {"content-security-policy": "frame-ancestors 'none'", "x-content-type-options": "nosniff"}
_DIGITS = 18  # of a length, and more than any has
_FEW_BYTES = 512  # of a body that is read at once
_FEW_VALUES = 2**14  # that are written as JSON at once; more are, in the pool
_GONE = 499  # for the log: the client hung up
_STATUS = {BadItem: 422, TooMuch: 413, Overloaded: 429, Closed: 503, DeadlineExceeded: 504}


class Api:
    """The routes, of a service that may still be loading.

    Attributes:
        service: None until it is loaded.
        app: the ASGI application.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, lifespan: Callable[[Any], Any] | None = None) -> None:
        self.settings, self.metrics = settings, metrics
        self.service: Service | None = None
        model = "/v2/models/{name}"
        self._routes = [
            Route("/embed", self._embed, methods=["POST"]),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/", self._page),
            Route("/docs", self._docs),
            Route("/openapi.json", self._openapi),
            Route("/v1/models", self._models),
            Route("/info", self._info),
            Route("/health/live", self._live),
            Route("/health/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/v2", self._server_metadata),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            *(
                Route(model + version + path, endpoint, methods=[method])
                for version in ("", "/versions/{version}")
                for path, endpoint, method in (
                    ("", self._model_metadata, "GET"),
                    ("/ready", self._model_ready, "GET"),
                    ("/infer", self._infer, "POST"),
                )
            ),
        ]
        self._work: dict[str, Callable[[Request], Awaitable[Response]]] = {
            route.path: route.endpoint for route in self._routes[:3]
        }  # what costs most
        self._labels: dict[Any, str] = {route.endpoint: route.path for route in reversed(self._routes)}
        handlers: dict[Any, Any] = {HTTPException: self._refuse, LengthwiseError: self._refuse, Exception: self._fail}
        inner = Starlette(routes=self._routes, exception_handlers=handlers, lifespan=lifespan)
        self.app: ASGIApp = _Middleware(inner, self)

    def route_of(self, scope: Scope) -> str:
        """The route that a request went to, for metrics."""
        endpoint = scope.get("endpoint")
        return self._labels.get(endpoint or self._work.get(scope["path"]), "other")

    # What asks for vectors

    async def _embed(self, request: Request) -> Response:
        def read(body: EmbedBody, service: Service) -> RaggedTokens:
            texts = read_texts(body.inputs, "inputs", self.settings.max_items)
            return service.tokenize(texts, truncate=body.truncate)

        body, _, vectors = await self._vectors(request, EmbedBody, read)
        return await self._json(_normalized(vectors) if body.normalize else vectors, vectors.size)

    async def _embeddings(self, request: Request) -> Response:
        def read(body: EmbeddingsBody, service: Service) -> RaggedTokens:
            self._check_name(body.model, service)
            if body.dimensions not in (None, service.dim):
                message = f"dimensions is {body.dimensions}, but the vectors of this model are {service.dim} wide"
                raise Refused(400, message, "dimensions", "unsupported_value")
            return _tokens(service, read_items(body.input, "input", self.settings.max_items))

        body, tokens, vectors = await self._vectors(request, EmbeddingsBody, read)
        as_base64 = body.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
            for index, vector in enumerate(vectors)
        ]
        count = int(tokens.offsets[-1])
        usage = {"prompt_tokens": count, "total_tokens": count}
        answer = {"object": "list", "data": data, "model": body.model, "usage": usage}
        return await self._json(answer, vectors.size)

    async def _infer(self, request: Request) -> Response:
        def read(body: InferBody, service: Service) -> RaggedTokens:
            self._check_model(request)
            return _tokens(service, protocol.read_infer(body, self.settings.max_items))

        body, _, vectors = await self._vectors(request, InferBody, read)
        return await self._json(protocol.infer_answer(self._loaded().name, body.id, vectors), vectors.size)

    async def _tokenize(self, request: Request) -> Response:
        service = self._taking()

        def read(data: bytes) -> list[list[dict[str, Any]]]:
            body = read_body(TokenizeBody, data)
            texts = read_texts(body.inputs, "inputs", self.settings.max_items)
            tokens = service.tokenize(texts, any_length=True, add_special_tokens=body.add_special_tokens)
            return [service.shown_tokens(tokens.row(row)) for row in range(len(tokens))]

        deadline = time.monotonic() + self.settings.request_timeout
        data = await self._read(request, deadline)
        with service.place(len(data)):
            found = await _unless_gone(request, service.in_pool(lambda: read(data)))
            return await self._json(found, sum(map(len, found)))

    async def _vectors(
        self, request: Request, kind: type[BodyT], read: Callable[[BodyT, Service], RaggedTokens]
    ) -> tuple[BodyT, RaggedTokens, NDArray[np.float32]]:
        """A request's body, the ids of its items, and their vectors, float32[items, dim]."""
        service, began = self._taking(), time.monotonic()
        deadline = began + self.settings.request_timeout
        data = await self._read(request, deadline)

        def parse() -> tuple[BodyT, RaggedTokens]:
            body = read_body(kind, data)
            return body, read(body, service)

        async def work() -> tuple[BodyT, RaggedTokens, NDArray[np.float32]]:
            with service.place(len(data)) as places:
                at = time.monotonic()
                body, tokens = parse() if len(data) <= _FEW_BYTES else await service.in_pool(parse)
                self.metrics.took("tokenize", time.monotonic() - at)
                return body, tokens, await service.encode(tokens, places, deadline)

        found = await _unless_gone(request, work())
        self.metrics.took("total", time.monotonic() - began)
        return found

    async def _read(self, request: Request, deadline: float) -> bytes:
        """A request's body.

        Raises:
            Refused: it is too large, too slow, encoded, or says that it is no JSON.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "the body is encoded; send it as it is", code="unsupported_encoding")
        media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media != "application/json":
            raise Refused(415, f"the body is {media[:80]!r}; send application/json", code="unsupported_media_type")
        most = self.settings.max_request_bytes
        too_large = Refused(413, f"the body is larger than {most:,} bytes; send fewer texts", code="too_large")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:_DIGITS]) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > most:
                        raise too_large
        except TimeoutError:
            raise Refused(408, "the body did not come in time", code="timeout") from None
        return b"".join(parts)

    # What tells how things are

    async def _page(self, _: Request) -> Response:
        return FileResponse(PAGE, media_type="text/html", headers=_OF_PAGES)

    async def _docs(self, _: Request) -> Response:
        return HTMLResponse(docs_page(self._description()), headers=_OF_PAGES)

    async def _openapi(self, _: Request) -> Response:
        return _json_response(self._description())

    async def _models(self, _: Request) -> Response:
        service = self._loaded()
        model = {"id": service.name, "object": "model", "created": int(service.started), "owned_by": "lengthwise"}
        return _json_response({"object": "list", "data": [model]})

    async def _info(self, _: Request) -> Response:
        return _json_response(self._loaded().info())

    async def _live(self, _: Request) -> Response:
        return _json_response({"live": True})

    async def _ready(self, _: Request) -> Response:
        state = "starting" if self.service is None else self.service.state
        ready = self.service is not None and self.service.is_ready
        return _json_response({"ready": ready, "state": state}, 200 if ready else 503)

    async def _metrics(self, _: Request) -> Response:
        content, media = self.metrics.exposition()
        return Response(content, media_type=media)

    async def _server_metadata(self, _: Request) -> Response:
        return _json_response({"name": "lengthwise", "version": __version__, "extensions": []})

    async def _model_metadata(self, request: Request) -> Response:
        service = self._check_model(request)
        return _json_response(protocol.model_metadata(service.name, service.dim))

    async def _model_ready(self, request: Request) -> Response:
        service = self._check_model(request)
        status = 200 if service.is_ready else 503
        return _json_response({"name": service.name, "ready": service.is_ready}, status)

    # What they share

    def _loaded(self) -> Service:
        if self.service is None:
            raise Refused(503, "the model is being loaded; try again in a moment", code="starting")
        return self.service

    def _taking(self) -> Service:
        service = self._loaded()
        if service.state == "draining":
            raise Refused(503, "the server is ending; ask another one", code="draining")
        if not service.is_ready:
            raise Refused(503, "the server does not compute its golden vectors; ask another one", code=service.state)
        return service

    def _check_name(self, name: str, service: Service) -> None:
        if name != service.name:
            raise Refused(
                404, f"there is no model {name[:80]!r} here, but {service.name!r}", "model", "model_not_found"
            )

    def _check_model(self, request: Request) -> Service:
        service = self._loaded()
        self._check_name(request.path_params["name"], service)
        if request.path_params.get("version", protocol.VERSION) != protocol.VERSION:
            raise Refused(404, f"there is only version {protocol.VERSION}", "version", "model_not_found")
        return service

    def _description(self) -> dict[str, Any]:
        title = "loading" if self.service is None else self.service.name
        return describe(title, with_key=self.settings.api_key is not None)

    async def _json(self, value: Any, size: int) -> Response:
        service = self._loaded()
        if size <= _FEW_VALUES:
            return _json_response(value)
        return await service.in_pool(lambda: _json_response(value))

    async def worked(self, request: Request) -> Response | None:
        """The answer of a route that works, without the layers that Starlette puts around it; None for the others."""
        endpoint = self._work.get(request.scope["path"])
        if endpoint is None or request.method != "POST":
            return None
        try:
            return await endpoint(request)
        except ClientDisconnect:
            raise
        except (HTTPException, LengthwiseError) as error:
            return self._refusal(request.scope["path"], error)
        except Exception as error:  # whatever the runtime raises
            return await self._fail(request, error)

    def reject_overload(self, scope: Scope) -> Response | None:
        """What is answered at the door to a request for which there is no place."""
        if scope["method"] != "POST" or self.service is None or not self.service.is_ready:
            return None
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        try:
            self.service.check_place(int(length[:_DIGITS]) if length.isdigit() else 0)
        except Overloaded as error:
            return self._refusal(scope["path"], error)
        return None

    def allows(self, path: str, authorization: bytes) -> bool:
        """Whether a request may come in."""
        key = self.settings.api_key
        if key is None or path in _OPEN:
            return True
        kind, _, given = authorization.partition(b" ")
        return hmac.compare_digest(given.strip(), key.encode()) and kind.lower() == b"bearer"

    async def _refuse(self, request: Request, error: Exception) -> Response:
        return self._refusal(request.url.path, error)

    def _refusal(self, path: str, error: Exception) -> Response:
        headers: dict[str, str] = {}
        message, param, code = str(error), None, None
        if isinstance(error, Refused):
            status, param, code = error.status, error.param, error.code
        elif isinstance(error, HTTPException):
            status, message, headers = error.status_code, error.detail, dict(error.headers or {})
        else:
            status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 503)
        if isinstance(error, BadItem):
            param, code = f"{'input' if path.startswith('/v1/') else 'inputs'}.{error.index}", "invalid_item"
            message = f"item {error.index}: {message}"
        if isinstance(error, Overloaded):
            headers["retry-after"], code = str(error.retry_after), "overloaded"
        if status in (429, 503):
            headers.setdefault("retry-after", "1")
        if status in (408, 413, 415):  # the rest of the body is not read
            headers["connection"] = "close"
        if status in (413, 429, 503, 504):
            self.metrics.rejected.labels(str(code or status)).inc()
        return _error_response(path, status, message, param, code, headers)

    async def _fail(self, request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _error_response(request.url.path, 500, "the server failed; its log says how", None, "internal", {})


class _Middleware:
    """Counts answers, asks for the key, and closes connections while the server is ending."""

    def __init__(self, inner: ASGIApp, api: Api) -> None:
        self._inner, self._api = inner, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        status = _GONE
        service = self._api.service

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if service is not None and service.state == "draining":
                    MutableHeaders(raw=message["headers"])["connection"] = "close"
            await send(message)

        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        try:
            if self._api.allows(scope["path"], authorization):
                answer = self._api.reject_overload(scope) or await self._api.worked(Request(scope, receive, sending))
                await (answer or self._inner)(scope, receive, sending)
            else:
                message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
                headers = {"www-authenticate": "Bearer", "connection": "close"}
                response = _error_response(scope["path"], 401, message, None, "invalid_api_key", headers)
                await response(scope, receive, sending)
        except ClientDisconnect:
            pass
        finally:
            self._api.metrics.requests.labels(self._api.route_of(scope), str(status)).inc()


def _tokens(service: Service, given: Given) -> RaggedTokens:
    if given.texts is not None:
        return service.tokenize(given.texts)
    return service.given_ids(given.ids or [])


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What the work gives; it is given up where the client hangs up.

    Raises:
        ClientDisconnect: it did.
    """
    task = asyncio.current_task()
    gone = asyncio.ensure_future(request.receive())  # the body was read: what else comes is that the client has left
    left = False

    def leave(_: object) -> None:
        nonlocal left
        if not gone.cancelled() and task is not None:
            left = True
            task.cancel()

    gone.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if left and task is not None:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        gone.remove_done_callback(leave)
        gone.cancel()


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), np.float32)


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, media_type="application/json")


def _error_response(
    path: str, status: int, message: str, param: str | None, code: str | None, headers: dict[str, str]
) -> Response:
    """An error as the clients of a route read it: a line under /v2, OpenAI's object elsewhere."""
    message = message.encode(errors="replace").decode()
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    body: Any = {"message": message, "type": kind, "param": param, "code": code}
    return _json_response({"error": message if path.startswith("/v2") else body}, status, headers)


def lifespan_of(start: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]) -> Callable[[Any], Any]:
    """A lifespan of two halves."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        await start()
        try:
            yield
        finally:
            await end()

    return lifespan
