"""A request with its answer, and the flow control of its connection: uvicorn's, with errors while a body arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from lengthwise.export.server.errors import RequestError

EXTENSION = "lengthwise.connection"  # of the ASGI scope: the `connections.Connection` of a request


class Exchange(RequestResponseCycle):
    """A request and its answer.

    Attributes:
        failure: why the rest of the body is not read; raised to the application once.
    """

    failure: RequestError | None = None

    def fail(self, error: RequestError) -> None:
        """Raise an error to the application, which is reading the body, and close the connection after its answer."""
        self.failure, self.keep_alive = error, False
        self.message_event.set()

    async def receive(self) -> Any:
        """Part of the body, or the end of the connection."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete and self.failure is None:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        failure, self.failure = self.failure, None
        if failure is not None and self.more_body:
            raise failure
        message = {"type": "http.request", "body": bytes(self.body), "more_body": self.more_body}
        self.body = bytearray()
        return message


class ExpectingExchange(Exchange):
    """One whose client waits for `100 Continue`, and may never send the body if it gets another answer."""

    async def send(self, message: Any) -> None:
        """Send a part of the answer."""
        if self.waiting_for_100_continue:
            self.keep_alive = False
        await super().send(message)


class Flow(FlowControl):
    """Flow control of a connection, which may have reasons of its own not to read on."""

    def __init__(self, transport: asyncio.Transport, may_read: Callable[[], bool]) -> None:
        """Args:
        may_read: whether the connection has no such reason.
        """
        super().__init__(transport)
        self._may_read = may_read

    def resume_reading(self) -> None:
        """Read on, if the connection may."""
        if self._may_read():
            super().resume_reading()
