"""A headless Chromium, driven by Playwright, and a record of its pages' events."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, Response, Route, sync_playwright

from lengthwise.export.runtimes.javascript import BROWSER_VARIABLE, browser_options, find_browser

_LOOPBACK_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@dataclass
class Record:
    """Events of a page.

    Attributes:
        console: errors, warnings and dialogs; error statuses of a server are in `failed` instead.
        requests: every request, in order.
        failed: requests without an answer, or with a status of 400 or more.
    """

    console: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Record the events of a page."""
        page.on("console", self._add_console)
        page.on("pageerror", lambda error: self.console.append(f"exception: {error.stack or error}"))
        page.on("dialog", self._dismiss)
        page.on("request", lambda request: self.requests.append(request))
        page.on("requestfailed", self._add_failure)
        page.on("response", self._add_response)

    def _add_console(self, message: ConsoleMessage) -> None:
        is_network = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning", "assert") and not is_network:
            self.console.append(f"{message.type}: {message.text}")

    def _dismiss(self, dialog: Dialog) -> None:
        self.console.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _add_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page cancelled it
            self.failed.append(f"{request.failure} {request.url}")

    def _add_response(self, response: Response) -> None:
        if response.status >= 400:
            self.failed.append(f"{response.status} {response.url}")


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser that can reach only this machine; the test is skipped where none is installed."""
    program = find_browser()
    if program is None or shutil.which(program) is None:
        pytest.skip(f"no Chromium or Chrome at {program or 'the path'}; install one, or set {BROWSER_VARIABLE}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**browser_options(program), args=[_LOOPBACK_ONLY])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_page(browser: Browser, **options: Any) -> Iterator[tuple[Page, Record]]:
    """A page in a context of its own: cookies, storage and cache are not shared."""
    context = browser.new_context(**options)
    try:
        page, record = context.new_page(), Record()
        record.watch(page)
        yield page, record
    finally:
        context.close()


def answer_next(page: Page, path: str, *answers: tuple[int, object], **headers: str) -> None:
    """Answer the next requests for a path in place of the server.

    Args:
        answers: status and body of each; a body that is not a string is sent as JSON.
        headers: with underscores for hyphens.
    """
    waiting = list(answers)
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(route: Route) -> None:
        status, body = waiting.pop(0)
        media = "text/plain" if isinstance(body, str) else "application/json"
        text = body if isinstance(body, str) else json.dumps(body)
        route.fulfill(status=status, headers={"Content-Type": media, **named}, body=text)

    page.route(f"**{path}", answer, times=len(answers))


def wait_until(page: Page, expression: str, seconds: float = 30.0) -> None:
    """Wait until an expression of JavaScript is true.

    `page.wait_for_function` evaluates strings within the page, which a content security policy forbids.
    """
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {seconds:.0f} s: {expression}")
        page.wait_for_timeout(20)
