"""onnxruntime's JavaScript builds: onnxruntime-node in a Node process, onnxruntime-web (WebAssembly) in a browser.

Decisions:
- Batches and arrays travel as bytes in one format, which `javascript_driver/session.mjs` describes: through the pipes
  of the Node process, or as base64 through Playwright.
- The browser is the installed Chromium or Chrome, headless. Playwright answers every request of its page, so there is
  no HTTP server and nothing leaves the browser; model and WebAssembly go through file inputs, which is much faster.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lengthwise.export.runtimes.base import ORT_FILES, NotRunnable
from lengthwise.export.runtimes.process import ANSWER_SECONDS, START_SECONDS, BytesRuntime, ProcessRuntime

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page, Playwright, Route

DRIVER = Path(__file__).with_name("javascript_driver")
BROWSER_VARIABLE = "LENGTHWISE_BROWSER"
_PACKAGES = DRIVER / "node_modules"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PAGE_URL = "http://onnxruntime.localhost/"
_PAGE = '<!doctype html><input type="file" multiple><script type="module" src="web.mjs"></script>'
_WASM = "ort-wasm-simd-threaded.wasm"  # of onnxruntime-web's ort.wasm.min.mjs
_CLOSE_SECONDS = 30.0
T = TypeVar("T")


def find_browser() -> str | None:
    """The program named by LENGTHWISE_BROWSER, else the first Chromium or Chrome on the path."""
    return os.environ.get(BROWSER_VARIABLE) or next(filter(None, map(shutil.which, _BROWSERS)), None)


def browser_options(program: str) -> dict[str, Any]:
    """Arguments of Playwright's `launch` for a program."""
    return {"executable_path": program, "headless": True, "chromium_sandbox": os.geteuid() != 0}  # root cannot have one


class OnnxRuntimeNode(ProcessRuntime):
    """onnxruntime-node, on the CPU."""

    name = "onnxruntime-node"
    files = ORT_FILES

    def _command(self, path: Path) -> tuple[list[str], Path]:
        node = _require("onnxruntime-node", "node", shutil.which("node"))
        return [node, str(DRIVER / "node.mjs"), str(path.resolve())], DRIVER


class OnnxRuntimeWeb(BytesRuntime):
    """onnxruntime-web's WebAssembly build, on one thread, in a headless Chromium that Playwright controls."""

    name = "onnxruntime-web (wasm)"
    files = ORT_FILES
    _session: _BrowserSession | None = None

    def _start(self, path: Path) -> bytes:
        program = shutil.which(named := _require("onnxruntime-web", "a Chromium or Chrome", find_browser()))
        if program is None:
            raise NotRunnable(f"{named} cannot be started; see {BROWSER_VARIABLE}")
        if path.with_name(path.name + ".data").exists():
            raise NotRunnable("weights in a file of their own (a graph of more than 2 GB) cannot be sent to a browser")
        self._session = _BrowserSession()
        return self._session.call(self._session.open(program, path), START_SECONDS)

    def _answer(self, request: bytes) -> bytes:
        if self._session is None:
            raise RuntimeError("the browser is closed")
        return self._session.call(self._session.evaluate("request => answer(request)", request), ANSWER_SECONDS)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


class _BrowserSession:
    """A browser with one page, controlled from an event loop in a thread of its own.

    Playwright's synchronous API would need the caller's thread to run no event loop, and could not time out.
    """

    _playwright: Playwright | None = None
    _context: BrowserContext | None = None
    _page: Page

    def __init__(self) -> None:
        try:
            from playwright import async_api
        except ModuleNotFoundError:
            raise NotRunnable("playwright is not installed; run make runtimes") from None
        self._api = async_api
        self._temporary = tempfile.mkdtemp(prefix="lw-browser-")  # short, since Chromium puts sockets into it
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="browser", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of a coroutine that runs in the thread.

        Raises:
            RuntimeError: it failed, or took longer.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise RuntimeError(f"the browser gave no answer within {seconds:.0f} s") from None
        except self._api.Error as error:
            raise RuntimeError(error.message if self._context else f"the browser ended: {error.message}") from error

    async def open(self, program: str, model: Path) -> bytes:
        """Start the browser and load a model in its page; the answer describes the session."""
        self._playwright = await self._api.async_playwright().start()
        self._context = await self._playwright.chromium.launch_persistent_context(
            f"{self._temporary}/profile",
            artifacts_dir=f"{self._temporary}/artifacts",  # else in a folder that a killed browser leaves behind
            env={**os.environ, "TMPDIR": self._temporary},
            **browser_options(program),
        )
        self._context.on("close", lambda _: setattr(self, "_context", None))
        self._page = await self._context.new_page()
        self._page.set_default_timeout(1_000 * START_SECONDS)
        await self._page.route("**/*", _serve_file)
        await self._page.goto(_PAGE_URL)
        await self._page.set_input_files("input", [model, _PACKAGES / "onnxruntime-web/dist" / _WASM])
        return await self.evaluate("() => load()")

    async def evaluate(self, function: str, request: bytes = b"") -> bytes:
        """Call a function of the page with bytes; it returns bytes."""
        answer: str = await self._page.evaluate(function, base64.b64encode(request).decode())
        return base64.b64decode(answer)

    def close(self) -> None:
        """End the browser and the thread."""
        with contextlib.suppress(RuntimeError):
            self.call(self._close(), _CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    async def _close(self) -> None:
        if self._context is not None:
            await self._context.close()
        if self._playwright is not None:
            await self._playwright.stop()


async def _serve_file(route: Route) -> None:
    """Serve the page and its modules; anything else is refused."""
    name = route.request.url.removeprefix(_PAGE_URL)
    folder = _PACKAGES / "onnxruntime-web/dist" if name.startswith("ort/") else DRIVER
    path = folder / Path(name).name
    if name == "":
        await route.fulfill(body=_PAGE, content_type="text/html")
    elif path.suffix == ".mjs" and path.is_file():
        await route.fulfill(path=path, content_type="text/javascript")
    else:
        await route.abort()


def _require(package: str, needed: str, program: str | None) -> str:
    """The program, if it and the package are installed.

    Raises:
        NotRunnable: one of them is not.
    """
    if program is None:
        raise NotRunnable(f"{needed} is not installed; install it, then run make runtimes")
    if not (_PACKAGES / package).is_dir():
        raise NotRunnable(f"{package} is not installed; run make runtimes (npm ci in export/runtimes/{DRIVER.name})")
    return program
