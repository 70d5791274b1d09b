"""One connection of a client: uvicorn's HTTP/1.1 protocol, with limits on what a client may hold and for how long.

Decisions:
- Nothing is timed per request: a connection records when its state changed, and the monitor looks at all connections
  several times per second.
- An error in a header is answered in its turn, after the answers of earlier requests on the connection. An error in a
  body is raised where the application reads it.
- After an answer that leaves bytes unread, the connection is read on for a moment: closing it at once would reset it,
  and the client would lose the answer.
- An upgrade is not offered, so a request for one (h2c, websocket) is served as if it were not there. The parser stops
  after the header of such a request, so its header is parsed again without the fields of the upgrade.
- At most 16 pipelined requests wait on a connection; later ones are not read, and the connection is closed.
- If many requests of an address are refused at a time, the answers are delayed by some seconds, and nothing is read
  meanwhile: hostile clients would open the connections again, which costs the other clients more.
- A request that arrives in more than 16 tiny pieces is read several times per second, not at every piece.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from lengthwise.export.server.errors import RequestError
from lengthwise.export.server.exchange import EXTENSION, Exchange, ExpectingExchange, Flow
from lengthwise.export.server.monitor import ConnectionMonitor, Phase
from lengthwise.export.server.responses import render_refusal

_MAX_PIPELINED = 16
# The event loop reads up to 256 KiB at a time: with these pauses, all of these bytes in less than these seconds.
_LINGERING_SECONDS, _LINGERING_BYTES, _LINGERING_PAUSE_SECONDS = 2.0, 16 * 2**20, 0.025
_DELAY_SECONDS = 4.0  # of refusals; up to twice as long, so that connections are not closed all at once
_TINY_BYTES, _MAX_TINY_READS = 512, 16
_STALLED_SECONDS = 1.0  # without progress; then a connection may be closed in favour of a new one
_UPGRADE_FIELDS = (b"upgrade", b"http2-settings")
_REFUSED_SCOPE = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "headers": []}


class _Stop(Exception):
    """The rest of the data is not read."""


class Connection(HttpToolsProtocol):
    """The protocol of one connection.

    Attributes:
        phase: what is read next.
        since: when the phase began, on the clock of the event loop.
        read: when the last bytes arrived.
        received: bytes so far.
        throttled: whether nothing is read until the monitor's next look.
        buffered: bytes of bodies whose requests are not answered.
        unsent: bytes of answers that the client had not read when the monitor last looked.
        unsent_since: when `unsent` was last found to be 0, or began to be more.
        progressed: when `unsent` last changed.
        address: of the client.
        is_refused: whether nothing more is read because of an error.
        is_lost: whether it is closed.
        on_lost: called when it is closed, by the request that is being answered.
    """

    on_lost: Callable[[], object] | None = None
    is_lost = False
    pipeline: deque[tuple[Exchange, Any]]  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        monitor: ConnectionMonitor,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._monitor, self._settings = monitor, monitor.settings
        self.phase = Phase.IDLE
        self.since = self.read = self.unsent_since = self.progressed = self.loop.time()
        self.received = self.buffered = self.unsent = 0
        self.throttled = False
        self.address = ""
        self.is_refused = self._served = self._upgrade_offered = False
        self._due = 0
        self._refusal: RequestError | None = None  # not answered yet
        self._unparsed = 0  # bytes since the last complete header, part of a body or end of a request
        self._fields = 0
        self._tiny_reads = self._lingering_bytes = 0

    # Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection, or refuse it."""
        super().connection_made(transport)
        self.flow = Flow(transport, self._may_read)
        self.write, self.is_closing = transport.write, transport.is_closing
        self.address = self.client[0] if self.client else ""
        error = self._monitor.add(self)
        if error is not None:
            self.refuse(error)

    def _may_read(self) -> bool:
        """Whether no request waits or was refused."""
        waits = self.pipeline or self.throttled or self.phase is Phase.REFUSED
        return not waits and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._monitor.remove(self)
        super().connection_lost(exc)
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        """The client does not read an answer as fast as it is written."""
        super().pause_writing()
        before = self.unsent
        self._measure_unsent(self.loop.time())
        self._monitor.unsent += self.unsent - before

    def resume_writing(self) -> None:
        """The client has read most of an answer."""
        super().resume_writing()
        self._monitor.unsent -= self.unsent
        self.unsent = 0

    def close(self) -> None:
        """Close the connection after the last answer."""
        if self.phase is Phase.IDLE or self.transport.is_closing():
            self.transport.close()
            return
        self._linger()
        self.flow.resume_reading()

    def _linger(self) -> None:
        self._enter(Phase.LINGERING)
        self.pipeline.clear()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def shutdown(self) -> None:
        """The server ends: close the connection, after the answers that are due."""
        if self._due:
            super().shutdown()
        else:
            self.transport.close()

    # Parsing

    def data_received(self, data: bytes) -> None:
        """Parse some bytes, in parts that are not larger than a header may be."""
        self.read = self.loop.time()
        self.received += len(data)
        if self.phase is Phase.LINGERING:
            self._lingering_bytes += len(data)
            if self._lingering_bytes > _LINGERING_BYTES:
                self.transport.abort()
            else:  # as slowly as a network, so that others are served meanwhile
                self.flow.pause_reading()
                self.loop.call_later(_LINGERING_PAUSE_SECONDS, self.flow.resume_reading)
            return
        size = self._settings.max_header_bytes
        if len(data) <= size:
            self._parse(data)
            if len(data) < _TINY_BYTES and self.phase in (Phase.HEADER, Phase.BODY):
                self._tiny_reads += 1
                if self._tiny_reads > _MAX_TINY_READS:
                    self._monitor.throttle(self)
            return
        view = memoryview(data)
        for start in range(0, len(data), size):
            self._parse(view[start : start + size])

    def _parse(self, data: bytes | memoryview) -> None:
        if self.phase in (Phase.REFUSED, Phase.LINGERING):
            return
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
            if self._unparsed > self._settings.max_header_bytes:
                raise self._too_large()
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, RequestError):
                self.refuse(cause)
            elif isinstance(cause, _Stop):
                self.stop_reading()
            else:
                problem = "its target is not a valid path" if cause is not None else str(error)
                message = f"the request is not valid HTTP/1.1 ({problem}); HTTP/2 and TLS need a proxy"
                self.refuse(RequestError(400, message, code="invalid_http"))
        except RequestError as error:
            self.refuse(error)

    def _too_large(self) -> RequestError:
        limit = self._settings.max_header_bytes
        if self.phase is Phase.BODY:
            message = f"the body has more than {limit:,} bytes of chunk extensions or trailers in a row; send none"
            return RequestError(400, message, code="invalid_http")
        message = f"the header is larger than {limit:,} bytes (max_header_bytes); send less"
        return RequestError(431, message, code="header_too_large")

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse the header of a request again without the fields of an upgrade, and then what follows it."""
        method = self.scope["method"].encode()
        fields = [(name, value) for name, value in self.headers if name not in _UPGRADE_FIELDS]
        head = [b"%s %s HTTP/%s" % (method, self.url, self.scope["http_version"].encode())]
        for name, value in fields:
            if name == b"connection":
                tokens = [token for token in value.split(b",") if token.strip().lower() not in _UPGRADE_FIELDS]
                value = b",".join(tokens)
            head.append(name + b": " + value)
        self._upgrade_offered = False
        self._unparsed = 0
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self._parse(b"\r\n".join([*head, b"", b""]))
        self._parse(rest)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]
        self.phase, self.since = Phase.HEADER, self.read
        self._fields = self._tiny_reads = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the header, or of the trailers of a body, which are ignored."""
        self._fields += 1
        if self._fields > self._settings.max_headers:
            message = f"the header has more than {self._settings.max_headers:,} fields (max_headers); send fewer"
            raise RequestError(431, message, code="header_too_large")
        if self.phase is not Phase.HEADER:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Run the application, or let the request wait for its turn."""
        self._unparsed = 0
        method = self.parser.get_method().decode("ascii")
        if self.parser.should_upgrade():
            if method == "CONNECT":
                raise RequestError(405, "CONNECT is not supported; this server is no proxy", code="invalid_http")
            self._upgrade_offered = True
            self.scope["method"], self.scope["http_version"] = method, self.parser.get_http_version()
            return
        if len(self.pipeline) >= _MAX_PIPELINED:
            if self._monitor.count_refusal(self):
                self._due -= len(self.pipeline)
                self.pipeline.clear()
            else:
                self.pipeline[0][0].keep_alive = False
            raise _Stop
        self.phase, self.since = Phase.BODY, self.read
        version = self.parser.get_http_version()
        self.scope["method"] = method
        self._set_path()
        if version != "1.1":
            self.scope["http_version"] = version
            self.expect_100_continue = False
        app: Any = self.app
        if method == "POST" and self._monitor.unsent > self._settings.max_buffer_bytes:
            message = "clients have not read their answers (max_buffer_bytes); try again later"
            app = self._monitor.refuse(RequestError(429, message, code="overloaded"))
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self._start(self._exchange(self.scope, keep_alive), app)

    def _set_path(self) -> None:
        if self.url == b"*":  # of OPTIONS: the server as a whole
            path, query = b"/", b""
        else:
            url = httptools.parse_url(self.url)
            path, query = url.path or b"/", url.query or b""
        decoded = path.decode("ascii")
        self.scope["path"] = urllib.parse.unquote(decoded) if "%" in decoded else decoded
        self.scope["raw_path"], self.scope["query_string"] = path, query

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        if self.phase is not Phase.BODY:
            raise _Stop
        self._unparsed = 0
        exchange = self.cycle
        if exchange.response_complete:
            return
        exchange.body += body
        if len(exchange.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        exchange.message_event.set()
        self._monitor.hold(self, len(body))

    def on_message_complete(self) -> None:
        """A request ends."""
        if self._upgrade_offered:
            return
        if self.phase is not Phase.BODY:
            raise _Stop
        self._unparsed = 0
        self.phase, self.since = Phase.IDLE, self.read
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    # Answers

    def _exchange(self, scope: Any, keep_alive: bool) -> Exchange:
        kind = ExpectingExchange if self.expect_100_continue else Exchange
        return kind(
            scope=scope,
            transport=cast(asyncio.Transport, self),  # for `write`, `close` and `is_closing`
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _start(self, exchange: Exchange, app: Any) -> None:
        self.cycle = exchange
        self._due += 1
        if self._due > 1:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, app))
        else:
            self._start_asgi_task(exchange, app)

    def refuse(self, error: RequestError) -> None:
        """Answer with an error in its turn, later if there are many, and read nothing more."""
        phase, exchange = self.phase, cast(Exchange, self.cycle)
        delayed = self._monitor.count_refusal(self)
        self.stop_reading()
        if phase is Phase.BODY and exchange.response_complete:
            self.close()
        elif delayed:
            self._refusal = error
            if phase is Phase.BODY:
                self._due -= 1
                exchange.disconnected = True
                exchange.message_event.set()
        elif phase is Phase.BODY:
            exchange.fail(error)
        else:
            self.expect_100_continue = False
            self._start(self._exchange({**_REFUSED_SCOPE}, keep_alive=False), self._monitor.refuse(error))

    def _answer_refusal(self) -> None:
        """Send the answer that was delayed, without the application, which would take longer."""
        if self._refusal is not None and not self._due:
            self.transport.write(render_refusal(self._refusal))
        self._refusal = None
        self._monitor.count_closed("refused")
        self._linger()  # nothing is read: all the client's bytes would come at once

    def on_response_complete(self) -> None:
        """Start the next request, or read on."""
        self.server_state.total_requests += 1
        self._served = True
        self._due -= 1
        self._monitor.release(self)
        if not self._due:
            self._monitor.offer(self)
        if self.phase is Phase.LINGERING or self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.phase is Phase.IDLE:
            self.since = self.loop.time()
        self.flow.resume_reading()

    def stop_reading(self) -> None:
        """Read nothing more."""
        if self.phase is Phase.BODY:
            self.cycle.body = bytearray()
            self._monitor.release(self)
        if self.phase is not Phase.LINGERING:
            self._enter(Phase.REFUSED)
            self.flow.pause_reading()

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, self.loop.time()
        self._monitor.offer(self)

    # Timeouts

    def rank(self, now: float) -> tuple[int, float] | None:
        """The order in which connections are closed in favour of new ones, the lowest first; None if it is in use."""
        if self.unsent:
            return (3, self.progressed) if now - self.progressed > _STALLED_SECONDS else None
        if self.phase is Phase.BODY:
            return (3, self.since) if now - self.read > _STALLED_SECONDS else None
        if self._due:
            return None
        if self.phase in (Phase.LINGERING, Phase.REFUSED):
            return 0, self.since
        return (2 if self._served and self.phase is Phase.IDLE else 1), self.since

    def check_timeouts(self, now: float) -> bool:
        """Close the connection, or refuse its request, if the client took too long; whether it did."""
        self._measure_unsent(now)
        settings, age = self._settings, now - self.since
        if self.unsent:
            self.since = now
            return now - self.progressed > settings.write_timeout and self._monitor.abort(self, "write_timeout")
        if self.phase is Phase.IDLE:
            setting = "idle_timeout" if self._served else "header_timeout"
            return age > getattr(settings, setting) and not self._due and self._monitor.abort(self, setting)
        if self.phase is Phase.LINGERING:
            return age > _LINGERING_SECONDS and self._monitor.abort(self, "refused")
        if self.phase is Phase.REFUSED:
            self.parser = None  # type: ignore[assignment]  # frees what it read
            self.headers = []
            delay = _DELAY_SECONDS * (1 + id(self) // 64 % 64 / 64)
            if self._due or age < delay:
                return False
            self._answer_refusal()
            return True
        if self.flow.read_paused:
            self.since = self.read = now  # the server's own delay
            return False
        if self.phase is Phase.HEADER:
            return age > settings.header_timeout and self._time_out("header", "header_timeout")
        if now - self.read > settings.chunk_timeout:
            return self._time_out("next part of the body", "chunk_timeout")
        return age > settings.body_timeout and self._time_out("whole body", "body_timeout")

    def _time_out(self, part: str, setting: str) -> bool:
        self._monitor.count_closed(setting)
        seconds = getattr(self._settings, setting)
        self.refuse(RequestError(408, f"the {part} did not arrive within {seconds:g} s ({setting})", code="timeout"))
        return True

    def _measure_unsent(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        if not self.unsent:
            self.unsent_since = now
        if unsent != self.unsent:
            self.unsent, self.progressed = unsent, now
