"""The browser of the tests sees what tests of a page rely on: that nothing was seen of it would else prove nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from helpers.browser import Browser, BrowserError, Page, find_browser
from lengthwise.export.runtimes import javascript


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.page() as opened:
        yield opened


def write(page: Page, html: str) -> None:
    page.open(f"data:text/html,{quote('<!doctype html>' + html)}")


def test_errors_of_a_page_and_its_requests_are_seen(page: Page) -> None:
    write(
        page,
        "<script>console.log('no error'); console.warn('a', 1); setTimeout(() => { throw new Error('late') });"
        "setTimeout(() => alert('hello'))</script><img src='http://elsewhere.example/a.png'>",
    )
    page.wait_until("document.images[0].complete")
    said = " | ".join(page.console)
    assert "no error" not in said
    assert all(words in said for words in ("warning: a 1", "exception: Error: late", "dialog: hello"))
    assert page.requests[-1].url == "http://elsewhere.example/a.png"
    assert page.failed == ["net::ERR_NAME_NOT_RESOLVED http://elsewhere.example/a.png"]  # it never left the machine


def test_a_field_gets_what_is_typed_and_keys_are_pressed(page: Page) -> None:
    write(page, "<form onsubmit='sent = 1; return false'><input id=a value=old><button>Go</button></form><a id=b></a>")
    page.fill("#a", "nëw <b>")
    assert page.evaluate("document.getElementById('a').value") == "nëw <b>"
    page.press("Enter")
    assert page.evaluate("window.sent") == 1
    page.fill("#a", "")
    assert page.evaluate("document.getElementById('a').value") == ""
    with pytest.raises(BrowserError, match="did not get the focus"):
        page.fill("#b", "text")


def test_promises_are_waited_for_and_what_fails_says_why(page: Page) -> None:
    assert page.evaluate("new Promise(done => setTimeout(() => done({a: [1]}), 20))") == {"a": [1]}
    with pytest.raises(BrowserError, match="no such thing"):
        page.evaluate("Promise.reject(new Error('no such thing'))")
    with pytest.raises(BrowserError, match="not true within 0 s: 1 > 2"):
        page.wait_until("1 > 2", seconds=0.1)
    with pytest.raises(BrowserError, match="not true within 0 s: missing: ReferenceError"):
        page.wait_until("missing", seconds=0.1)
    page.evaluate("setTimeout(() => { window.missing = 5 }, 50)")
    assert page.wait_until("missing") == 5
    with pytest.raises(BrowserError, match="ERR_NAME_NOT_RESOLVED"):
        page.open("http://elsewhere.example/")


def test_a_browser_that_ends_says_so_and_leaves_nothing() -> None:
    with Browser() as running, pytest.raises(BrowserError, match="the browser ended"):
        running.call("Browser.crash")
    assert not Path(running._profile).exists()


def test_a_test_without_a_browser_is_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(javascript._BROWSER_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(pytest.skip.Exception, match=r"none; install one, or set LENGTHWISE_BROWSER"):
        find_browser()
