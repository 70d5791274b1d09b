"""The handlers of the HTTP interface, one per operation of `operations.py`.

Decisions:
- Capacity is reserved before a body is parsed, so a request that cannot be accepted costs next to nothing.
- Parsing and tokenizing run in the thread pool, and the event loop only moves bytes. A body of at most 2 KiB is
  parsed and tokenized at once, in less time than handing it over takes.
- Bodies are parsed by pydantic's own parser, which bounds the nesting and refuses NaN and lone surrogates.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from lengthwise import __version__
from lengthwise.export.server import open_inference as protocol
from lengthwise.export.server.bodies import (
    Body,
    EmbedBody,
    EmbeddingsBody,
    InferBody,
    Items,
    PredictBody,
    TokenizeBody,
    read_body,
    read_items,
    read_single_texts,
    read_texts,
)
from lengthwise.export.server.errors import RequestError
from lengthwise.export.server.exchange import EXTENSION
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.responses import json_response
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings
from lengthwise.tokens.ragged import RaggedTokens

PAGE = Path(__file__).with_name("page.html")
PAGE_HEADERS = {"content-security-policy": "frame-ancestors 'none'", "x-content-type-options": "nosniff"}
BodyT = TypeVar("BodyT", bound=Body)
T = TypeVar("T")
_MAX_LENGTH_DIGITS = 18  # of a Content-Length; longer ones are cut, and still larger than any limit
_INLINE_BODY_BYTES = 2_048  # larger bodies are parsed in the pool
_INLINE_JSON_VALUES = 2**14  # longer answers are written in the pool


class Api:
    """State and handlers of the HTTP interface.

    Attributes:
        service: None until the model is loaded.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.service: Service | None = None

    # Vectors

    async def embed(self, request: Request) -> Response:
        """POST /embed."""

        def read(body: EmbedBody, service: Service) -> RaggedTokens:
            _check_embed_options(body, service)
            texts = read_texts(body.inputs, "inputs", self.settings.max_items)
            return service.tokenize(texts, truncate=body.truncate)

        body, _, vectors = await self._encode(request, EmbedBody, read)
        return await self._json(_normalize(vectors) if body.normalize else vectors, vectors.size)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""

        def read(body: EmbeddingsBody, service: Service) -> RaggedTokens:
            if body.model is not None:
                _check_model_name(body.model, service)
            _check_dimensions(body.dimensions, service)
            return _to_ids(service, read_items(body.input, "input", self.settings.max_items))

        body, tokens, vectors = await self._encode(request, EmbeddingsBody, read)
        as_base64 = body.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _to_base64(vector) if as_base64 else vector}
            for index, vector in enumerate(vectors)
        ]
        count = int(tokens.offsets[-1])
        usage = {"prompt_tokens": count, "total_tokens": count}
        answer = {"object": "list", "data": data, "model": self.loaded().name, "usage": usage}
        return await self._json(answer, vectors.size)

    async def predict(self, request: Request) -> Response:
        """POST /predict."""

        def read(body: PredictBody, service: Service) -> RaggedTokens:
            if service.engine.classifier is None:
                message = "this model has no labels; serve one with a classifier, or ask /embed for vectors"
                raise RequestError(400, message, code="unsupported_value")
            _check_truncation(body.truncate, body.truncation_direction)
            texts = read_single_texts(body.inputs, "inputs", self.settings.max_items)
            return service.tokenize(texts, truncate=body.truncate)

        body, _, vectors = await self._encode(request, PredictBody, read)
        rows = self.loaded().predict(vectors, raw_scores=body.raw_scores)
        is_batch = isinstance(body.inputs, list) and isinstance(body.inputs[0], list)
        return await self._json(rows if is_batch else rows[0], sum(map(len, rows)))

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer."""

        def read(body: InferBody, service: Service) -> RaggedTokens:
            self._requested_model(request)
            return _to_ids(service, protocol.read_infer(body, self.settings.max_items, service.engine.config.labels))

        body, _, vectors = await self._encode(request, InferBody, read)
        service = self.loaded()
        classifier = service.engine.classifier
        logits = None if classifier is None else classifier.logits(vectors)
        return await self._json(protocol.infer_answer(service.name, body, vectors, logits), vectors.size)

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        service = self._accepting()

        def read(data: bytes) -> list[list[dict[str, Any]]]:
            body = read_body(TokenizeBody, data)
            texts = read_texts(body.inputs, "inputs", self.settings.max_items)
            tokens = service.tokenize(texts, any_length=True, add_special_tokens=body.add_special_tokens)
            return [service.describe_tokens(tokens.row(row)) for row in range(len(tokens))]

        data = await self._read(request, time.monotonic() + self.settings.request_timeout)
        with service.reserve(len(data)):
            rows = await _cancel_on_disconnect(request, service.run_in_pool(lambda: read(data)))
            return await self._json(rows, sum(map(len, rows)))

    async def _encode(
        self, request: Request, kind: type[BodyT], read: Callable[[BodyT, Service], RaggedTokens]
    ) -> tuple[BodyT, RaggedTokens, NDArray[np.float32]]:
        """The body of a request, the ids of its items, and their vectors, float32[items, dim]."""
        service, started = self._accepting(), time.monotonic()
        deadline = started + self.settings.request_timeout
        data = await self._read(request, deadline)

        def parse() -> tuple[BodyT, RaggedTokens]:
            body = read_body(kind, data)
            return body, read(body, service)

        async def work() -> tuple[BodyT, RaggedTokens, NDArray[np.float32]]:
            with service.reserve(len(data)) as reservation:
                parsing = time.monotonic()
                body, tokens = parse() if len(data) <= _INLINE_BODY_BYTES else await service.run_in_pool(parse)
                self.metrics.observe_stage("tokenize", time.monotonic() - parsing)
                return body, tokens, await service.encode(tokens, reservation, deadline)

        result = await _cancel_on_disconnect(request, work())
        self.metrics.observe_stage("total", time.monotonic() - started)
        return result

    async def _read(self, request: Request, deadline: float) -> bytes:
        """The body of a request.

        Raises:
            RequestError: it is too large, too slow, encoded, or not JSON by its media type.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(415, "the body is encoded; send it as it is", code="unsupported_encoding")
        media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media != "application/json":
            raise RequestError(415, f"the body is {media[:80]!r}; send application/json", code="unsupported_media_type")
        limit = self.settings.max_request_bytes
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:_MAX_LENGTH_DIGITS]) > limit:
            raise _body_too_large(limit)
        body = bytearray()  # parts would take many times as much memory if each has only a few bytes
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                async for part in request.stream():
                    body += part
                    if len(body) > limit:
                        raise _body_too_large(limit)
        except TimeoutError:
            raise RequestError(408, "the body did not arrive in time", code="timeout") from None
        return bytes(body)

    # Model and state

    async def page(self, _: Request) -> Response:
        """GET /."""
        return FileResponse(PAGE, media_type="text/html", headers=PAGE_HEADERS)

    async def models(self, _: Request) -> Response:
        """GET /v1/models."""
        return json_response({"object": "list", "data": [_describe_model(self.loaded())]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        return json_response(_describe_model(self._requested_model(request)))

    async def info(self, _: Request) -> Response:
        """GET /info."""
        return json_response(self.loaded().info())

    async def live(self, _: Request) -> Response:
        """GET /health/live."""
        return json_response({"live": True})

    async def ready(self, _: Request) -> Response:
        """GET /health/ready."""
        state = "starting" if self.service is None else self.service.state
        ready = self.service is not None and self.service.is_ready
        return json_response({"ready": ready, "state": state}, 200 if ready else 503)

    async def prometheus(self, _: Request) -> Response:
        """GET /metrics."""
        content, media = self.metrics.exposition()
        return Response(content, media_type=media)

    async def server_metadata(self, _: Request) -> Response:
        """GET /v2."""
        return json_response({"name": "lengthwise", "version": __version__, "extensions": []})

    async def model_metadata(self, request: Request) -> Response:
        """GET /v2/models/NAME."""
        service = self._requested_model(request)
        return json_response(protocol.model_metadata(service.name, service.dim, service.engine.config.labels))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready."""
        service = self._requested_model(request)
        status = 200 if service.is_ready else 503
        return json_response({"name": service.name, "ready": service.is_ready}, status)

    # Conditions of a request

    def authorize(self, request: Request) -> None:
        """Check the API key.

        Raises:
            RequestError: 401, it is missing or wrong.
        """
        key = self.settings.api_key
        if key is None:
            return
        header = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = header.partition(b" ")
        if not (hmac.compare_digest(token.strip(), key.encode()) and scheme.lower() == b"bearer"):
            message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            raise RequestError(401, message, code="invalid_api_key")

    def reject_overload(self, request: Request) -> None:
        """Check by its length, before a body is read, that the queue can take it.

        Raises:
            Overloaded: it cannot.
        """
        if self.service is not None and self.service.is_ready:
            length = request.headers.get("content-length", "")
            self.service.check_capacity(int(length[:_MAX_LENGTH_DIGITS]) if length.isdecimal() else 0)

    def loaded(self) -> Service:
        """The service.

        Raises:
            RequestError: 503, it is not loaded yet.
        """
        if self.service is None:
            raise RequestError(503, "the model is being loaded; try again in a moment", code="starting")
        return self.service

    def _accepting(self) -> Service:
        service = self.loaded()
        if service.state == "draining":
            raise RequestError(503, "the server is shutting down; use another one", code="draining")
        if not service.is_ready:
            message = "the server does not reproduce its golden vectors; use another one"
            raise RequestError(503, message, code=service.state)
        return service

    def _requested_model(self, request: Request) -> Service:
        service = self.loaded()
        _check_model_name(request.path_params["name"], service)
        if request.path_params.get("version", protocol.VERSION) != protocol.VERSION:
            raise RequestError(404, f"the only version is {protocol.VERSION}", "version", "model_not_found")
        return service

    async def _json(self, value: Any, size: int) -> Response:
        if size <= _INLINE_JSON_VALUES:
            return json_response(value)
        return await self.loaded().run_in_pool(lambda: json_response(value))


def _body_too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than {limit:,} bytes; send fewer texts", code="too_large")


def _check_model_name(name: str, service: Service) -> None:
    if name != service.name:
        message = f"there is no model {name[:80]!r} here, but {service.name!r}"
        raise RequestError(404, message, "model", "model_not_found")


def _describe_model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": int(service.started), "owned_by": "lengthwise"}


def _check_dimensions(dimensions: int | None, service: Service) -> None:
    if dimensions not in (None, service.dim):
        message = f"dimensions is {dimensions}, but the vectors of this model are {service.dim} wide"
        raise RequestError(400, message, "dimensions", "unsupported_value")


def _check_embed_options(body: EmbedBody, service: Service) -> None:
    """Refuse what clients of other servers may request and this model does not have: to ignore it would be wrong."""
    _check_dimensions(body.dimensions, service)
    if body.prompt_name is not None:
        message = (
            f"prompt_name is {body.prompt_name[:80]!r}, but this model has no prompts; put the prompt into the text"
        )
        raise RequestError(400, message, "prompt_name", "unsupported_value")
    _check_truncation(body.truncate, body.truncation_direction)


def _check_truncation(truncate: bool, direction: str | None) -> None:
    if truncate and direction in ("Left", "left"):
        message = "texts are only truncated on the right; cut them before sending"
        raise RequestError(400, message, "truncation_direction", "unsupported_value")


def _to_ids(service: Service, items: Items) -> RaggedTokens:
    if items.texts is not None:
        return service.tokenize(items.texts)
    return service.check_ids(items.ids or [])


async def _cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client closes the connection.

    Raises:
        ClientDisconnect: it did.
    """
    connection, task = request.scope.get("extensions", {}).get(EXTENSION), asyncio.current_task()
    if connection is None or task is None:  # another server runs the application
        return await work
    connection.on_lost = task.cancel
    if connection.is_lost:  # before the work began
        task.cancel()
    try:
        return await work
    except asyncio.CancelledError:
        if connection.is_lost:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        connection.on_lost = None


def _normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), np.float32)


def _to_base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
