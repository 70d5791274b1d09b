"""The handlers: work for a client that is gone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Literal

import pytest
from starlette.requests import ClientDisconnect, Request

from lengthwise.export.server.api import _cancel_on_disconnect
from lengthwise.export.server.exchange import EXTENSION

TIMEOUT_SECONDS = 20.0
When = Literal["before", "meanwhile"] | None  # the client disconnects; None if the server ends


async def cancel_work(disconnect: When) -> tuple[list[str], BaseException | None]:
    """What becomes of work whose client disconnects, or whose server ends: what it saw, and what was raised."""
    connection = SimpleNamespace(is_lost=disconnect == "before", on_lost=None)
    request = Request({"type": "http", "extensions": {EXTENSION: connection}})
    seen: list[str] = []

    async def work() -> None:
        seen.append("started")
        try:
            await asyncio.sleep(TIMEOUT_SECONDS)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(_cancel_on_disconnect(request, work()))
    await asyncio.sleep(0)
    if disconnect == "meanwhile":
        connection.is_lost = True
        connection.on_lost()
    elif disconnect is None:
        task.cancel()
    (raised,) = await asyncio.gather(task, return_exceptions=True)
    assert connection.on_lost is None
    return seen, raised


@pytest.mark.parametrize(
    ("disconnect", "error"),
    [("meanwhile", ClientDisconnect), ("before", ClientDisconnect), (None, asyncio.CancelledError)],
)
def test_work_is_cancelled(disconnect: When, error: type[BaseException]) -> None:
    seen, raised = asyncio.run(cancel_work(disconnect))
    assert seen == ["started", "cancelled"]
    assert type(raised) is error
