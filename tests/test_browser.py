"""The record of a page sees what tests rely on: an empty record would otherwise prove nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser

from helpers.browser import answer_next, open_browser, open_page
from lengthwise.export.runtimes.javascript import BROWSER_VARIABLE


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


def test_record_has_errors_dialogs_requests_and_failures(browser: Browser) -> None:
    html = (
        "<!doctype html><script>console.log('no error'); console.warn('a', 1);"
        "setTimeout(() => { throw new Error('late') }); setTimeout(() => alert('hello'))</script>"
        "<img src='http://elsewhere.example/a.png'>"
    )
    with open_page(browser) as (page, record):
        page.goto(f"data:text/html,{quote(html)}")
        page.wait_for_function("document.images[0].complete")
        page.wait_for_timeout(50)
        console = " | ".join(record.console)
        assert "no error" not in console
        assert all(words in console for words in ("warning: a 1", "exception: Error: late", "dialog: hello"))
        assert record.requests[-1].url == "http://elsewhere.example/a.png"
        assert record.failed == ["net::ERR_NAME_NOT_RESOLVED http://elsewhere.example/a.png"]  # it left no packet


def test_next_requests_are_answered_once_each(browser: Browser) -> None:
    with open_page(browser) as (page, record):
        answer_next(page, "/page", (200, "<p>here"))
        page.goto("http://127.0.0.1:9/page")
        answer_next(page, "/data", (200, {"a": 1}), (422, "no"), Retry_After="7")
        fetched = "fetch('data').then(async (it) => [it.status, it.headers.get('Retry-After'), await it.text()])"
        assert page.evaluate(fetched) == [200, "7", '{"a": 1}']
        assert page.evaluate(fetched) == [422, "7", "no"]
        assert page.evaluate(f"{fetched}.catch(() => null)") is None
        assert [line.split()[0] for line in record.failed] == ["422", "net::ERR_UNSAFE_PORT"]


def test_missing_browser_skips_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(BROWSER_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(pytest.skip.Exception, match="none; install one, or set LENGTHWISE_BROWSER"), open_browser():
        pass
