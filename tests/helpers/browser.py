"""A Chromium without a window for the tests, driven through its debugging pipe; no package is needed.

The pipe is two descriptors, 3 to the browser and 4 back; what goes through is JSON, each message ended by a zero byte.
All of it happens in the thread that asks: events are taken in while an answer is waited for. A browser ends with the
process that started it, however that ends, because its pipe closes then.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from lengthwise.export.runtimes import javascript

SECONDS = 30.0  # for what takes a fraction of one on a machine that is not busy
_START_SECONDS = 120.0
_OPTIONS = (
    *javascript._BROWSER_OPTIONS,
    "--disable-extensions",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--no-default-browser-check",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
)
_WITH_PIPE = (
    "import fcntl, os, sys\n"
    "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]\n"
    "for end, descriptor in zip(ends, (3, 4)): os.dup2(end, descriptor); os.close(end)\n"
    "os.execv(sys.argv[3], sys.argv[3:])"
)
_KEYS: Mapping[str, tuple[int, str]] = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " ")}
_MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


class BrowserError(Exception):
    """The browser, or the page in it, did not do what was asked."""


class PageError(BrowserError):
    """A command or a script failed; it may not do so at another moment, such as when a page has loaded."""


def find_browser() -> str:
    """The program, found as `runtimes.javascript` finds it; the test is skipped where there is none."""
    named = os.environ.get(javascript._BROWSER_VARIABLE)
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, javascript._BROWSERS)), None)
    if found is None:
        where = f"at {named}" if named else "on the path"
        pytest.skip(f"no Chromium or Chrome {where}; install one, or set {javascript._BROWSER_VARIABLE}")
    return found


class Browser:
    """A running browser.

    Raises:
        BrowserError: it ended, or did not answer in time.
    """

    def __init__(self) -> None:
        program = find_browser()
        self._profile = tempfile.mkdtemp(prefix="lw-browser-")
        self._errors = Path(self._profile, "stderr")
        self._numbers = itertools.count(1)
        self._buffer = bytearray()
        self._answers: dict[int, dict[str, Any]] = {}
        self._unanswered: set[int] = set()
        self._pages: dict[str, Page] = {}
        theirs_in, self._in = os.pipe()
        self._out, theirs_out = os.pipe()
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root can have none
        options = [*_OPTIONS, *sandbox, f"--user-data-dir={self._profile}", "about:blank"]
        try:
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _WITH_PIPE, str(theirs_in), str(theirs_out), program, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(theirs_in, theirs_out),
                    process_group=0,
                    env={**os.environ, "TMPDIR": self._profile},  # what it leaves behind goes with the profile
                )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        try:
            self.call("Browser.getVersion", seconds=_START_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and remove its profile."""
        os.close(self._in)
        os.close(self._out)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    @contextlib.contextmanager
    def page(self) -> Iterator[Page]:
        """A page of its own: no cookies, storage or cache are shared with another's."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            yield page
        finally:
            del self._pages[session]
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def call(
        self, method: str, session: str | None = None, seconds: float = SECONDS, **parameters: Any
    ) -> dict[str, Any]:
        """A command's result."""
        number = self.send(method, session, **parameters)
        self._unanswered.add(number)
        give_up = time.monotonic() + seconds
        try:
            while number not in self._answers:
                self.take_in(give_up, method)
        finally:
            self._unanswered.discard(number)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error'].get('message')}")
        result: dict[str, Any] = answer["result"]
        return result

    def send(self, method: str, session: str | None = None, **parameters: Any) -> int:
        """Send a command, and do not wait; the number of the answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        data = json.dumps(message if session is None else {**message, "sessionId": session}).encode() + b"\0"
        try:
            while data:
                data = data[os.write(self._in, data) :]
        except BrokenPipeError:
            raise BrowserError(self._last_words()) from None
        return number

    def take_in(self, give_up: float, wanted: str = "a message") -> None:
        """Take in what the browser says next; by `give_up`, of the monotonic clock, it has to have said something."""
        ready, _, _ = select.select([self._out], [], [], max(0.0, give_up - time.monotonic()))
        if not ready:
            raise BrowserError(f"no answer in time: {wanted}")
        data = os.read(self._out, 1 << 20)
        if not data:
            raise BrowserError(self._last_words())
        self._buffer += data
        *messages, self._buffer = self._buffer.split(b"\0")
        for message in map(json.loads, messages):
            if "id" not in message:
                page = self._pages.get(message.get("sessionId", ""))
                if page is not None:
                    page.happened(message["method"], message["params"])
            elif message["id"] in self._unanswered:
                self._answers[message["id"]] = message

    def _last_words(self) -> str:
        words = self._errors.read_text(errors="replace").strip()
        return f"the browser ended: {words[-500:] or 'it said nothing'}"


@dataclass(frozen=True)
class Request:
    """What a page asked a server for."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str | None


@dataclass
class Page:
    """A page, and what happened in it.

    Attributes:
        console: errors, warnings and dialogs, in words; answers of a server that are errors are no part of these.
        requests: all that were sent, first to last.
        failed: requests that got no answer, or an answer of status 400 or more, in words.
    """

    browser: Browser
    session: str
    console: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _urls: dict[str, str] = field(default_factory=dict)
    _instead: dict[str, list[tuple[int, Mapping[str, str], str]]] = field(default_factory=dict)

    def call(self, method: str, seconds: float = SECONDS, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, seconds, **parameters)

    def open(self, url: str) -> None:
        """Go to a URL, and wait until it is loaded."""
        done = self.call("Page.navigate", url=url)
        if "errorText" in done:
            raise BrowserError(f"{url}: {done['errorText']}")
        self.wait_until("document.readyState === 'complete'")

    def evaluate(self, expression: str, seconds: float = SECONDS) -> Any:
        """The value of an expression of JavaScript; of a promise, what it came to."""
        done = self.call(
            "Runtime.evaluate", seconds, expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in done:
            raise PageError(f"{expression}: {_exception(done['exceptionDetails'])}")
        return done["result"].get("value")

    def wait_until(self, expression: str, seconds: float = SECONDS) -> Any:
        """Wait for an expression to be true; its value then. It may fail at first, as while a page is loaded."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                value, reason = self.evaluate(expression), expression
            except PageError as error:
                value, reason = None, str(error)
            if value:
                return value
            if time.monotonic() > give_up:
                raise BrowserError(f"not true within {seconds:.0f} s: {reason}; console: {self.console}")
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """The text that is seen of an element."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def visible(self, selector: str) -> bool:
        """Whether an element is there, and shown."""
        return bool(self.evaluate(f"!!document.querySelector({json.dumps(selector)})?.checkVisibility()"))

    def click(self, selector: str) -> None:
        """Click on the middle of an element, with the mouse."""
        box = self.evaluate(
            f"(element => {{ element.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const box = element.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2];"
            f" }})(document.querySelector({json.dumps(selector)}))"
        )
        where = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def fill(self, selector: str, text: str) -> None:
        """Click on a field, and type a text in place of what it held."""
        self.click(selector)
        name = json.dumps(selector)
        if not self.evaluate(f"document.activeElement === document.querySelector({name})"):
            raise BrowserError(f"{selector} did not get the focus")
        self.evaluate(f"document.querySelector({name}).select()")
        if text:
            self.call("Input.insertText", text=text)
        else:
            self._key("Backspace", 8, "")

    def press(self, key: str, *modifiers: str) -> None:
        """Press a key, with some of Alt, Control, Meta and Shift held."""
        code, text = _KEYS[key]
        self._key(key, code, text, sum(_MODIFIERS[modifier] for modifier in modifiers))

    def _key(self, key: str, code: int, text: str, modifiers: int = 0) -> None:
        pressed: dict[str, Any] = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": code,
            "modifiers": modifiers,
        }
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **pressed, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def look(self, width: int = 1000, height: int = 900, scheme: str = "light") -> None:
        """Set the size of the window, in CSS pixels, and the scheme of colours that a person prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def answer_instead(self, path: str, status: int, body: object, **headers: str) -> None:
        """Answer the next request for a path of a URL in the server's place.

        A body that is no text is sent as JSON. A header's underscores stand for hyphens.
        """
        kind = {"Content-Type": "text/plain" if isinstance(body, str) else "application/json"}
        named = kind | {name.replace("_", "-"): value for name, value in headers.items()}
        text = body if isinstance(body, str) else json.dumps(body)
        self._instead.setdefault(path, []).append((status, named, text))
        self.call("Fetch.enable", patterns=[{"urlPattern": f"*{path}"} for path in self._instead])

    def happened(self, event: str, details: Mapping[str, Any]) -> None:
        """Take an event in; called while answers are waited for."""
        match event:
            case "Runtime.consoleAPICalled" if details["type"] in ("error", "warning", "assert"):
                said = [str(part.get("value", part.get("description"))) for part in details["args"]]
                self.console.append(f"{details['type']}: {' '.join(said)}")
            case "Runtime.exceptionThrown":
                self.console.append(f"exception: {_exception(details['exceptionDetails'])}")
            case "Log.entryAdded":
                entry = details["entry"]
                if entry["level"] in ("error", "warning") and entry["source"] != "network":
                    self.console.append(f"{entry['source']} {entry['level']}: {entry['text']}")
            case "Page.javascriptDialogOpening":
                self.console.append(f"dialog: {details['message']}")
                self.browser.send("Page.handleJavaScriptDialog", self.session, accept=False)
            case "Network.requestWillBeSent":
                request = details["request"]
                self._urls[details["requestId"]] = request["url"]
                self.requests.append(
                    Request(request["method"], request["url"], request["headers"], request.get("postData"))
                )
            case "Network.responseReceived" if details["response"]["status"] >= 400:
                self.failed.append(f"{details['response']['status']} {details['response']['url']}")
            case "Network.loadingFailed" if not details.get("canceled"):
                self.failed.append(f"{details['errorText']} {self._urls.get(details['requestId'])}")
            case "Fetch.requestPaused":
                self._answer_paused(details["requestId"], details["request"]["url"])

    def _answer_paused(self, request: str, url: str) -> None:
        waiting = next((answers for path, answers in self._instead.items() if url.endswith(path) and answers), None)
        if waiting is None:
            self.browser.send("Fetch.continueRequest", self.session, requestId=request)
            return
        status, headers, body = waiting.pop(0)
        self.browser.send(
            "Fetch.fulfillRequest",
            self.session,
            requestId=request,
            responseCode=status,
            responseHeaders=[{"name": name, "value": value} for name, value in headers.items()],
            body=base64.b64encode(body.encode()).decode(),
        )


def _exception(details: Mapping[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
