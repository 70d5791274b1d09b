"""The lifecycle of a server: listen, load, serve, and shut down on SIGTERM or SIGINT.

Decisions:
- It listens before the model is loaded, and answers 503 until then.
- On the first signal it is no longer ready and accepts no new work, but keeps listening for `shutdown_delay` seconds:
  load balancers and kept-alive connections learn of it from an answer with `connection: close`.
- It stops listening once everything that was accepted is answered, or `shutdown_timeout` seconds after the signal.
  Connections in the kernel's queue are accepted first and answered too; later ones are refused. A connection that
  arrives between the last accept and `shutdown()` of the socket can still be reset.
- A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn

from lengthwise.errors import LengthwiseError, RunError
from lengthwise.export.artifact.folder import Artifact, read_manifest
from lengthwise.export.server.api import Api
from lengthwise.export.server.app import create_app, refuse
from lengthwise.export.server.connections import Connection
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.monitor import ConnectionMonitor
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings

_POLL_SECONDS = 0.02
_LAST_ANSWERS_SECONDS = 0.5  # after the listening socket is closed
_BACKLOG = 2_048
_ALLOCATIONS_PER_COLLECTION = 10_000  # a request leaves no cycles behind


def serve(folder: Path, settings: ServeSettings, report: Callable[[str], None]) -> None:
    """Serve an artifact until a signal ends the process.

    Args:
        report: called with one line when the server listens, is ready, shuts down and has ended.

    Raises:
        LengthwiseError: the address cannot be used, the artifact cannot be served, or the shutdown lost requests.
    """
    started = time.monotonic()
    read_manifest(folder)  # a wrong path is refused before anybody is told that the server listens
    listener = _listen(settings)
    _Lifecycle(folder, settings, report, started).run(listener)


class _Lifecycle:
    """One run of a server."""

    def __init__(self, folder: Path, settings: ServeSettings, report: Callable[[str], None], started: float) -> None:
        self._folder, self._settings, self._reporter, self._started = folder, settings, report, started
        self._metrics = Metrics()
        self._api = Api(settings, self._metrics)
        self._failure: LengthwiseError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._monitor = ConnectionMonitor(settings, self._metrics, partial(refuse, api=self._api))
        config = uvicorn.Config(
            create_app(self._api, self._lifespan),
            http=cast(type[asyncio.Protocol], partial(Connection, monitor=self._monitor)),
            interface="asgi3",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=int(settings.shutdown_timeout) + 1,
            server_header=False,
            ws="none",
            backlog=_BACKLOG,
        )
        self._server = _DrainingServer(config, self._drain)

    def run(self, listener: socket.socket) -> None:
        """Serve until the end."""
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._server.run(sockets=[listener])
        if self._failure is not None:
            raise self._failure
        if self._server.force_exit:
            raise RunError("ended at once by a second signal; accepted requests may be unanswered")

    def _report(self, line: str) -> None:
        """Report a line; a server whose output nobody reads any more serves on, and ends when it is told to."""
        with contextlib.suppress(OSError):
            self._reporter(line)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        self._report(f"listening   {self._url}")
        self._tasks.append(asyncio.create_task(self._load()))
        self._tasks.append(asyncio.create_task(self._monitor.watch()))
        try:
            yield
        finally:
            await self._close()

    async def _load(self) -> None:
        try:
            service = await asyncio.to_thread(
                lambda: Service(Artifact.open(self._folder), self._settings, self._metrics)
            )
        except LengthwiseError as error:
            self._fail(error)
            return
        except Exception as error:  # any error of the runtime
            self._fail(RunError(f"{self._folder}: cannot be served ({type(error).__name__}: {error})"))
            return
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector would look at all of it again and again
        gc.set_threshold(_ALLOCATIONS_PER_COLLECTION)
        self._api.service = service
        if self._server.is_draining:
            service.set_state("draining")
            return
        self._tasks.append(asyncio.create_task(service.watch()))
        seconds = time.monotonic() - self._started
        self._report(f"ready       {service.name}: {service.engine.name}, after {seconds:.1f} s")

    def _fail(self, error: LengthwiseError) -> None:
        self._failure = error
        self._server.should_exit = True

    async def _drain(self) -> None:
        """Answer what was accepted, stop listening, and let uvicorn exit."""
        signaled = time.monotonic()
        self._report("ending      new requests are refused")
        service = self._api.service
        if service is not None:
            service.set_state("draining")
        while (elapsed := time.monotonic() - signaled) < self._settings.shutdown_timeout:
            if elapsed >= self._settings.shutdown_delay and (service is None or not service.queue.tokens):
                break
            await asyncio.sleep(_POLL_SECONDS)
        await self._server.stop_listening(self._listener)
        last = time.monotonic() + _LAST_ANSWERS_SECONDS
        while self._server.server_state.connections and time.monotonic() < last:
            await asyncio.sleep(_POLL_SECONDS)
        self._server.should_exit = True

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        service = self._api.service
        if service is not None:
            left = service.queue.tokens
            if left and self._failure is None:
                self._failure = RunError(
                    f"ended after {self._settings.shutdown_timeout:g} s with {left:,} accepted tokens left; raise"
                    " shutdown_timeout, or lower max_queue_tokens"
                )
            service.close(wait=not left)
        if self._failure is None:
            self._report("ended       every accepted request was answered")


class _DrainingServer(uvicorn.Server):
    """A uvicorn server that drains before it stops listening, where uvicorn stops listening at the signal.

    Attributes:
        is_draining: whether a signal was received.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(config)
        self._drain, self.is_draining = drain, False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain, or exit at once if it was started."""
        if self.is_draining or self._loop is None:
            self.force_exit = self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._start_drain)
        self.is_draining = True

    async def stop_listening(self, listener: socket.socket) -> None:
        """Close the listening socket, and serve the connections in its queue, which closing alone would reset."""
        connections = list(_accept_pending(listener))
        with contextlib.suppress(OSError):  # not on every system
            listener.shutdown(socket.SHUT_RDWR)  # at once, while an event loop may close it later
        for server in self.servers:
            server.close()
        listener.close()
        for connection in connections:
            await asyncio.get_running_loop().connect_accepted_socket(self._create_protocol, connection)

    def _create_protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def _start_drain(self) -> None:
        self._drain_task = asyncio.ensure_future(self._drain())


def _accept_pending(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections in the queue of a non-blocking socket."""
    with contextlib.suppress(OSError):  # BlockingIOError: the queue is empty
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise RunError(
            f"{settings.host}:{settings.port}: cannot be listened on ({error}); choose another --host or --port"
        ) from error
    listener.setblocking(False)
    return listener
