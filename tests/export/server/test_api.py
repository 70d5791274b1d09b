"""The handlers: work for a client that is gone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from starlette.requests import ClientDisconnect, Request

from lengthwise.export.server.api import _cancel_on_disconnect
from lengthwise.export.server.exchange import EXTENSION

TIMEOUT_SECONDS = 20.0


async def cancel_work(*, disconnect: bool) -> tuple[list[str], BaseException | None]:
    """What becomes of work whose client disconnects, or whose server ends: what it saw, and what was raised."""
    connection = SimpleNamespace(is_lost=False, on_lost=None)
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
    if disconnect:
        connection.is_lost = True
        connection.on_lost()
    else:
        task.cancel()
    (raised,) = await asyncio.gather(task, return_exceptions=True)
    assert connection.on_lost is None
    return seen, raised


@pytest.mark.parametrize(("disconnect", "error"), [(True, ClientDisconnect), (False, asyncio.CancelledError)])
def test_work_is_cancelled(disconnect: bool, error: type[BaseException]) -> None:
    seen, raised = asyncio.run(cancel_work(disconnect=disconnect))
    assert seen == ["started", "cancelled"]
    assert type(raised) is error
