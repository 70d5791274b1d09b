"""JSON answers, and the one mapping from exceptions to answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lengthwise.errors import LengthwiseError
from lengthwise.export.server.errors import (
    InvalidItem,
    Overloaded,
    RequestError,
    RequestTimeout,
    RequestTooLarge,
    ShuttingDown,
)

log = logging.getLogger(__name__)
# Exception: status and code. The first class that matches counts.
_STATUSES: Mapping[type[Exception], tuple[int, str | None]] = {
    InvalidItem: (422, "invalid_item"),
    RequestTooLarge: (413, None),
    Overloaded: (429, "overloaded"),
    ShuttingDown: (503, None),
    RequestTimeout: (504, None),
    LengthwiseError: (503, None),
    Exception: (500, "internal"),
}
_CLOSE = {"connection": "close"}
_OPENAI_PATHS = ("/embeddings", "/models")  # as clients send them whose base URL lacks /v1
_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"www-authenticate": "Bearer", **_CLOSE},
    408: _CLOSE,  # here, and at 413 and 415, the rest of the body is not read
    413: _CLOSE,
    415: _CLOSE,
    429: {"retry-after": "1"},
    503: {"retry-after": "1"},
}


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value, NumPy arrays included, as JSON."""
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, media_type="application/json")


@dataclass(frozen=True)
class ErrorAnswer:
    """An error as HTTP sends it; see `RequestError` for the attributes."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def rejection(self) -> str | None:
        """Why the request was not accepted, for metrics; None for other errors."""
        return str(self.code or self.status) if self.status in (413, 429, 503, 504) else None

    def to_response(self, path: str) -> Response:
        """The body that clients of this route read: a string under /v2, OpenAI's object elsewhere."""
        message = self.message.encode(errors="replace").decode()
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        body: Any = {"message": message, "type": kind, "param": self.param, "code": self.code}
        headers = {**_HEADERS.get(self.status, {}), **self.headers}
        return json_response({"error": message if path.startswith("/v2") else body}, self.status, headers)


def answer_error(error: Exception, method: str, path: str) -> ErrorAnswer:
    """The answer for an exception that a request raised; an unexpected one is logged."""
    message = str(error)
    if isinstance(error, RequestError):
        return ErrorAnswer(error.status, message, error.param, error.code)
    if isinstance(error, HTTPException):
        return ErrorAnswer(error.status_code, _explain_route(error, method, path), headers=error.headers or {})
    status, code = next(answer for kind, answer in _STATUSES.items() if isinstance(error, kind))
    if isinstance(error, InvalidItem):
        param = f"{'input' if path.startswith('/v1/') else 'inputs'}.{error.index}"
        return ErrorAnswer(status, f"item {error.index}: {message}", param, code)
    if isinstance(error, Overloaded):
        return ErrorAnswer(status, message, code=code, headers={"retry-after": str(error.retry_after)})
    if status == 500:
        log.error("%s %s failed", method, path, exc_info=error)
        message = "the server failed; see its log"
    return ErrorAnswer(status, message, code=code)


def _explain_route(error: HTTPException, method: str, path: str) -> str:
    """What is wrong with a request for which there is no route, and the remedy."""
    if error.status_code == 405 and error.headers is not None:
        allowed = sorted(set(error.headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"})
        return f"{method} is not possible at {path[:100]}; send {' or '.join(allowed)}"
    if error.status_code == 404:
        base_url = "; the base URL of OpenAI's clients ends in /v1 here" if path in _OPENAI_PATHS else ""
        return f"there is no {path[:100]} here; /docs lists the routes{base_url}"
    return error.detail


def render_refusal(error: RequestError) -> bytes:
    """The whole answer of HTTP/1.1 to an error, after which the connection is closed."""
    answer = answer_error(error, "", "")
    response = answer.to_response("")
    response.headers["connection"] = "close"
    head = [b"HTTP/1.1 %d %s" % (answer.status, HTTPStatus(answer.status).phrase.encode())]
    head += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*head, b"", bytes(response.body)])
