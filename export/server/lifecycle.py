"""A server's life: listen, load, answer; on SIGTERM say so, answer what was accepted, and end.

Notable decisions:
- It listens before the model is loaded, and answers 503 until it is.
- On SIGTERM or SIGINT it stops to be ready and takes no new work at once, but listens on for `notice` seconds: a
  connection that is kept alive is told to close with an answer, so that no request meets a closed door on its way.
  Then, once all that was accepted is answered, or after `drain` seconds, the process ends; a second signal ends it at
  once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from lengthwise.errors import LengthwiseError, RunError
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.routes import Api, lifespan_of
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings

_POLL_SECONDS = 0.02
_LAST_SECONDS = 0.5  # that a request which is on its way may take
_BACKLOG = 2_048
_SO_ATTACH_FILTER, _RETURN = 26, 0x06  # of linux/socket.h and linux/bpf_common.h


def serve(folder: Path, settings: ServeSettings, tell: Callable[[str], None]) -> None:
    """Serve an artifact until the process is told to end.

    Args:
        tell: is told where it listens, when it is ready, and that it ends.

    Raises:
        LengthwiseError: the address is taken, or the artifact cannot be served.
    """
    began = time.monotonic()
    listening = _listen(settings)
    _Lifecycle(folder, settings, tell, began).run(listening)


class _Lifecycle:
    """One run of a server."""

    def __init__(self, folder: Path, settings: ServeSettings, tell: Callable[[str], None], began: float) -> None:
        self._folder, self._settings, self._tell, self._began = folder, settings, tell, began
        self._metrics = Metrics()
        self._api = Api(settings, self._metrics, lifespan_of(self._start, self._end))
        self._failure: LengthwiseError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        config = uvicorn.Config(
            self._api.app,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(settings.shutdown_timeout) + 1,
            server_header=False,
            ws="none",
            backlog=_BACKLOG,
        )
        self._server = _Server(config, self._drain)

    def run(self, listening: socket.socket) -> None:
        """Until the end."""
        self._listening = listening
        host, port = listening.getsockname()[:2]
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._server.run(sockets=[listening])
        if self._failure is not None:
            raise self._failure
        if self._server.force_exit:
            raise RunError("ended at once, by a second signal; what was accepted may not have been answered")

    async def _start(self) -> None:
        self._tell(f"listening   {self._url}")
        self._tasks.append(asyncio.create_task(self._load()))

    async def _load(self) -> None:
        try:
            service = await asyncio.to_thread(
                lambda: Service(Artifact.open(self._folder), self._settings, self._metrics)
            )
        except LengthwiseError as error:
            self._fail(error)
            return
        except Exception as error:  # whatever the runtime raises
            self._fail(RunError(f"{self._folder}: cannot be served ({type(error).__name__}: {error})"))
            return
        self._api.service = service
        if self._server.is_ending:
            service.set_state("draining")
            return
        self._tasks.append(asyncio.create_task(service.watch()))
        took = time.monotonic() - self._began
        self._tell(f"ready       {service.name}: {service.engine.name}, after {took:.1f} s")

    def _fail(self, error: LengthwiseError) -> None:
        self._failure = error
        self._server.should_exit = True

    async def _drain(self) -> None:
        """Answer what was accepted; then, or when that takes too long, let the server end."""
        service, began = self._api.service, time.monotonic()
        self._tell("ending      no new work is taken")
        if service is not None:
            service.set_state("draining")
        while (waited := time.monotonic() - began) < self._settings.shutdown_timeout:
            if waited >= self._settings.shutdown_delay and (service is None or not service.queue.held):
                break
            await asyncio.sleep(_POLL_SECONDS)
        _let_nobody_in(self._listening)
        await asyncio.sleep(5 * _POLL_SECONDS)  # who stands at the door is let in, and told to go
        for server in self._server.servers:
            server.close()
        self._listening.close()
        last = time.monotonic() + _LAST_SECONDS
        while self._server.server_state.connections and time.monotonic() < last:
            await asyncio.sleep(_POLL_SECONDS)
        self._server.should_exit = True

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        service = self._api.service
        if service is not None:
            left = service.queue.held
            if left and self._failure is None:
                self._failure = RunError(
                    f"ended after {self._settings.shutdown_timeout:g} s with {left:,} accepted tokens left; raise"
                    " shutdown_timeout, or lower max_queue_tokens"
                )
            service.close(wait=not left)
        if self._failure is None:
            self._tell("ended       all that was accepted is answered")


class _Server(uvicorn.Server):
    """uvicorn, which would close its doors at the signal; this one drains first.

    Attributes:
        is_ending: whether a signal has come.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(config)
        self._drain, self.is_ending = drain, False
        self._running: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        self._running = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; at once where it was begun."""
        if self.is_ending or self._running is None:
            self.force_exit = self.should_exit = True
        else:
            self._running.call_soon_threadsafe(self._begin_to_drain)
        self.is_ending = True

    def _begin_to_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise RunError(
            f"{settings.host}:{settings.port}: cannot be listened on ({error}); choose another --host or --port"
        ) from error
    listening.setblocking(False)
    return listening


def _let_nobody_in(listening: socket.socket) -> None:
    """Take no new connections, without closing the door on those that stand before it, as `close` would do.

    Linux is told to drop what comes, by a filter of one instruction; others, to let few stand there.
    """
    listening.listen(0)
    if sys.platform == "linux":
        drop = ctypes.create_string_buffer(struct.pack("@HBBI", _RETURN, 0, 0, 0))
        with contextlib.suppress(OSError):  # a kernel without filters
            listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(drop)))
