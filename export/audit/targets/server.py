"""A running server of embeddings, with the interface of OpenAI or of Text Embeddings Inference.

Every request has a deadline, after which its connection is closed: a server that sends a byte now and then does not
hold up an audit. One that misses two deadlines is not asked again.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import AuditError
from lengthwise.export.audit.answers import Precision
from lengthwise.export.audit.claims import Claims
from lengthwise.export.audit.targets.base import NoAnswer, NotAsked, TextTarget, Unanswered, check_vectors
from lengthwise.export.audit.units import word_units
from lengthwise.formats.embedding_folder import EmbeddingSettings

TIMEOUT_SECONDS = 30.0
_OPENAI, _TEI = "OpenAI's interface", "the interface of Text Embeddings Inference"
_PATHS = (("/v1/embeddings", _OPENAI), ("/embeddings", _OPENAI), ("/embed", _TEI))
_MOST_BYTES = 2**28
_DEADLINES = 2  # missed, after which a server is not asked again
_DTYPES: dict[str, Precision] = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float32"}


def is_url(model: str) -> bool:
    """Whether a model is named by a URL."""
    return model.startswith(("http://", "https://"))


class ServerTarget(TextTarget):
    """A server, by its address or by that of its embeddings route.

    Attributes:
        route: the path that is posted to.
    """

    concurrent = True

    def __init__(
        self,
        url: str,
        *,
        served_model: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        precision: Precision | None = None,
    ) -> None:
        """Find the server's interface.

        Args:
            served_model: the name that OpenAI's interface wants; its first model where it is left out.
            timeout: seconds for each request.

        Raises:
            AuditError: nothing answers there, or nothing that gives vectors.
        """
        super().__init__(url)
        self._url, self._timeout, self._missed = _split(url), timeout, 0
        self.units = word_units()
        self._model = served_model
        try:
            self.route, self._interface = self._find_route()
        except (Unanswered, NotAsked) as error:
            raise AuditError(f"{url}: cannot be audited: {error}") from error
        self.kind = f"server, {self._interface} at {self.route}"
        self._read_info(precision)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `Target.encode_texts`: one request."""
        return self._embed(self.route, self._interface, texts)

    def _find_route(self) -> tuple[str, str]:
        path = self._url.path.rstrip("/")
        if path.endswith(("/embed", "/embeddings")):
            candidates = [(path, _TEI if path.endswith("/embed") else _OPENAI)]
        else:
            candidates = [(path + route, interface) for route, interface in _PATHS]
        reasons = []
        for route, interface in candidates:
            try:
                self._embed(route, interface, ["a text"])
                return route, interface
            except Unanswered as error:
                reasons.append(f"POST {route}: {error}")
                if self._missed or "cannot be reached" in str(error):
                    break
        raise Unanswered("; ".join(reasons))

    def _embed(self, route: str, interface: str, texts: Sequence[str]) -> NDArray[np.float32]:
        if interface == _TEI:
            return check_vectors(self._request("POST", route, {"inputs": list(texts)}), len(texts))
        body = {"input": list(texts), "model": self._served_model(), "encoding_format": "float"}
        answer = self._request("POST", route, body)
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            places, vectors = [row["index"] for row in rows], [row["embedding"] for row in rows]
        except (TypeError, KeyError, AttributeError):
            raise Unanswered(f"its answer has no data with index and embedding: {json.dumps(answer)[:120]}") from None
        if places != list(range(len(texts))):
            raise Unanswered(f"it gave the vectors {places[:8]} for {len(texts)} texts")
        return check_vectors(vectors, len(texts))

    def _served_model(self) -> str:
        if self._model is None:
            base = self._url.path.rstrip("/").removesuffix("/embeddings").removesuffix("/v1")
            try:
                self._model = str(self._request("GET", f"{base}/v1/models")["data"][0]["id"])
            except (Unanswered, TypeError, KeyError, IndexError):
                self._model = "default"
        return self._model

    def _read_info(self, precision: Precision | None) -> None:
        """What Text Embeddings Inference says of its model."""
        info: Any = None
        if self._interface == _TEI:
            try:
                info = self._request("GET", f"{self.route.removesuffix('/embed')}/info")
            except (Unanswered, NotAsked):
                info = None
        info = info if isinstance(info, dict) and "model_dtype" in info else {}
        self.precision = precision or _DTYPES.get(str(info.get("model_dtype")), "float32")
        limit = info.get("max_input_length")
        if info:
            self.claims = replace(Claims(), settings=EmbeddingSettings(normalize=True))
        if isinstance(limit, int):
            self.claims = replace(self.claims, max_length=limit, max_length_from="/info's max_input_length")

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer.

        Raises:
            Unanswered: there is none in time, or it is an error.
            NotAsked: the server has missed too many deadlines.
        """
        if self._missed >= _DEADLINES:
            raise NotAsked(f"the server gave no answer within {self._timeout:g} s to {self._missed} requests before")
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(self._url.hostname), self._url.port, timeout=self._timeout)
        expired = threading.Event()
        timer = threading.Timer(self._timeout, _cut, (connection, expired))
        timer.daemon = True
        timer.start()
        try:
            connection.connect()
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path or "/", payload, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read(_MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            if expired.is_set() or isinstance(error, TimeoutError):
                self._missed += 1
                raise NoAnswer(f"the server gave no answer within {self._timeout:g} s") from error
            reached = (
                "cannot be reached" if isinstance(error, ConnectionRefusedError | socket.gaierror) else "broke off"
            )
            raise Unanswered(f"the server {reached} ({type(error).__name__}: {error})") from error
        finally:
            timer.cancel()
            connection.close()
        if expired.is_set():
            self._missed += 1
            raise NoAnswer(f"the server gave no answer within {self._timeout:g} s")
        return _parse(answer.status, data)


def _split(url: str) -> SplitResult:
    """The parts of a URL.

    Raises:
        AuditError: it has no host, or no port that there can be.
    """
    remedy = "give a URL such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it raises
    except ValueError as error:
        raise AuditError(f"{url}: not a URL ({error}); {remedy}") from None
    if not parts.hostname:
        raise AuditError(f"{url}: names no host; {remedy}")
    return parts


def _cut(connection: http.client.HTTPConnection, expired: threading.Event) -> None:
    """End a connection that another thread waits on."""
    expired.set()
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def _parse(status: int, data: bytes) -> Any:
    if status != 200:
        raise Unanswered(f"HTTP {status}: {' '.join(data[:300].decode(errors='replace').split())}")
    if len(data) > _MOST_BYTES:
        raise Unanswered(f"its answer is longer than {_MOST_BYTES >> 20} MB")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unanswered(f"its answer is not JSON: {data[:80]!r}") from None
