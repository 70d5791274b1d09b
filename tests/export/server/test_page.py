"""The server's page in a browser: what it shows, how it reports errors, and that nothing in a text is executed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page

from helpers.browser import Record, answer_next, open_browser, open_page, wait_until
from helpers.paths import ROOT
from helpers.serving import ServerProcess
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, TokenizerTraining
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.tokens.training import train_tokenizer

PAGE = ROOT / "export" / "server" / "page.html"
KEY = "the-key-of-a-test"
HOSTILE = "<script>window.ran=1</script> <img/src=x/onerror=window.ran=2> cat"
QUERY = "the cat sat"
LINES = ["rain fell on the road", "the cat sat", "", "the cat sat on the mat", "moon over the sea"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with a byte-level tokenizer that adds special tokens around a text."""
    training = TokenizerTraining(model="byte_bpe", vocab_size=300, bos_token="[B]", eos_token="[E]")
    tokenizer = train_tokenizer(TEXTS, training)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        embedding_dim=8,
        hidden_size=6,
        trained=False,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    folder = tmp_path_factory.mktemp("page") / "artifact"
    build_artifact(seeded_encoder(config, 0), tokenizer, folder)
    return folder


@contextlib.contextmanager
def run_server(folder: Path, api_key: str | None = None) -> Iterator[str]:
    """The URL of a running server; the tests compare the page with what this server answers."""
    environment = {} if api_key is None else {"LENGTHWISE_API_KEY": api_key}
    server = ServerProcess(
        folder, "--max-items", "6", "--max-text-tokens", "90", environment=environment
    ).wait_until_ready()
    try:
        yield server.url
    finally:
        server.close()


@pytest.fixture(scope="module")
def server_url(folder: Path) -> Iterator[str]:
    with run_server(folder) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser) -> Iterator[tuple[Page, Record]]:
    """An empty page and its record; afterwards its requests went to one host only, and its console is empty."""
    with open_page(browser) as (page, record):
        yield page, record
        page.wait_for_timeout(50)
        assert record.console == []
        assert page.evaluate("window.ran") is None
        hosts = {urllib.parse.urlsplit(request.url).hostname for request in record.requests}
        assert hosts <= {"127.0.0.1", None}, hosts  # None: the icon, which is a data URL


@pytest.fixture
def record(tab: tuple[Page, Record]) -> Record:
    return tab[1]


@pytest.fixture
def empty_page(tab: tuple[Page, Record]) -> Page:
    return tab[0]


@pytest.fixture
def page(empty_page: Page, server_url: str) -> Page:
    return open_url(empty_page, server_url)


def open_url(page: Page, url: str) -> Page:
    """Open the server's page, and wait until it shows the model's facts or an error."""
    page.goto(f"{url}/")
    wait_until(
        page, "facts.innerText && !facts.innerText.includes('Loading') || document.querySelector('.error').innerText"
    )
    return page


def request_json(url: str, path: str, **body: object) -> Any:
    """The parsed answer to a request of the test's own; POST if it has a body."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{url}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def embed(url: str, texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array(request_json(url, "embed", inputs=list(texts), normalize=True))


def error_body(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


def compare(page: Page, first: str, second: str) -> None:
    page.fill("#text-0", first)
    page.fill("#text-1", second)
    page.click("#compare button[type=submit]")
    wait_for_result(page, "compare")


def search(page: Page, query: str, lines: Sequence[str]) -> None:
    page.fill("#lines", "\n".join(lines))
    page.fill("#query", query)
    page.keyboard.press("Enter")
    wait_for_result(page, "search")


def wait_for_result(page: Page, form: str) -> None:
    """Wait until a form shows a result or an error; both are cleared when it is submitted."""
    shown = f"#{form} .error, #{form}-result, #key-form"
    wait_until(
        page,
        f"document.getElementById('{form}').ariaBusy !== 'true'"
        f" && [...document.querySelectorAll('{shown}')].some(it => it.checkVisibility())",
    )


def similarity(page: Page) -> float:
    return float(page.inner_text("#similarity").replace("−", "-"))


def search_results(page: Page) -> list[list[str]]:
    lines = "[...document.querySelectorAll('.nearest li')]"
    rows: list[list[str]] = page.evaluate(
        f"{lines}.map(li => [li.querySelector('bdi').innerText, li.querySelector('.value').innerText])"
    )
    return rows


def chips(page: Page, index: int) -> list[dict[str, Any]]:
    """The chips below a text, in the server's format of tokens."""
    fields = "({text: it.querySelector('bdi').innerText, title: it.title, special: it.classList.contains('special')})"
    tokens: list[dict[str, Any]] = page.evaluate(
        f"[...document.querySelectorAll('#tokens-{index} .chip')].map(it => {fields})"
    )
    return [{"id": int(re.search(r"\d+", chip.pop("title"))[0]), **chip} for chip in tokens]  # type: ignore[index]


def test_content_security_policy_allows_only_the_pages_script() -> None:
    html = PAGE.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
    assert set(re.findall(r"https?://[^'\"\s]*", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Storage|cookie", html)


def test_model_facts_are_shown(page: Page, record: Record, server_url: str) -> None:
    info = request_json(server_url, "info")
    assert page.inner_text("#model") == info["model_id"]
    assert f"{info['dim']} dimensions" in page.inner_text("#facts")
    assert page.is_visible("#untrained") == (not info["trained"])
    assert record.failed == []


@pytest.mark.parametrize("trained", [True, False])
def test_untrained_encoder_is_marked(empty_page: Page, server_url: str, trained: bool) -> None:
    answer_next(empty_page, "/info", (200, {"model_id": "<b>x</b>", "dim": 1024, "trained": trained}))
    page = open_url(empty_page, server_url)
    assert page.is_visible("#untrained") is not trained
    assert (page.inner_text("#model"), page.inner_text("#facts")) == ("<b>x</b>", "1,024 dimensions")


@pytest.mark.parametrize("trigger", ["button", "Enter"])
def test_comparison_shows_the_similarity(page: Page, record: Record, server_url: str, trigger: str) -> None:
    texts = ["the cat sat on the mat", "a dog sat on the mat"]
    for number, text in enumerate(texts):
        page.fill(f"#text-{number}", text)
    assert not page.is_visible("#compare-result")
    if trigger == "Enter":
        page.keyboard.press("Enter")
    else:
        page.click("#compare button[type=submit]")
    wait_for_result(page, "compare")
    first, second = embed(server_url, texts)
    assert similarity(page) == pytest.approx(first @ second, abs=6e-5)
    assert page.inner_text("#announcement") == f"Cosine similarity: {page.inner_text('#similarity')}"
    assert not page.is_visible("#compare .outdated")
    page.fill("#text-0", "moon")
    assert page.is_visible("#compare .outdated")  # the result belongs to other texts now
    sent = [json.loads(request.post_data or "null") for request in record.requests if request.url.endswith("/embed")]
    assert [(body["inputs"], body["normalize"]) for body in sent] == [(texts, True)]
    assert record.failed == []


def test_shift_enter_starts_a_line_and_equal_texts_have_similarity_one(page: Page, record: Record) -> None:
    page.fill("#text-0", "rain")
    page.keyboard.press("Shift+Enter")
    assert page.evaluate("document.getElementById('text-0').value") == "rain\n"
    assert not any(request.method == "POST" for request in record.requests)
    compare(page, "rain fell", "rain fell")
    assert page.inner_text("#similarity") == "1.0000"


def test_tokens_are_shown_with_special_ones_marked(page: Page, server_url: str) -> None:
    texts = ["the cat sat", "moon"]
    compare(page, *texts)
    for index, tokens in enumerate(request_json(server_url, "tokenize", inputs=texts, add_special_tokens=True)):
        assert any(token["special"] for token in tokens)
        assert chips(page, index) == tokens
        special = sum(token["special"] for token in tokens)
        assert page.inner_text(f"#tokens-{index} .count") == f"{len(tokens)} tokens, {special} special"
        spoken = page.evaluate(f"[...document.querySelectorAll('#tokens-{index} li')].map(it => it.textContent)")
        expected = [f"{it['text']} id {it['id']}{', special token' * it['special']}" for it in tokens]
        assert spoken == expected
    width = "document.querySelector('.id').getBoundingClientRect().width"
    assert page.evaluate(width) == 1
    page.click("#ids")
    assert page.evaluate(width) > 10


def test_invisible_tokens_are_made_visible_and_long_lists_are_folded(page: Page) -> None:
    tokens = [{"id": 5, "text": text, "special": False} for text in (" a", "\n", "", "\u200b", "\u202eb", "▁c")]
    many = [{"id": 6, "text": "x", "special": False}] * 400
    answer_next(page, "/tokenize", (200, [tokens, many]))
    compare(page, "a", "b")
    assert [chip["text"] for chip in chips(page, 0)] == ["␣a", "␊", "(empty)", "U+200B", "U+202Eb", "▁c"]
    assert (len(chips(page, 1)), page.inner_text("#tokens-1 .count")) == (300, "400 tokens")
    page.click("#tokens-1 .more")
    assert len(chips(page, 1)) == 400
    assert not page.is_visible("#tokens-1 .more")


def test_search_sorts_lines_by_similarity(page: Page, record: Record, server_url: str) -> None:
    search(page, QUERY, LINES)
    lines = [line for line in LINES if line]
    query, *vectors = embed(server_url, [QUERY, *lines])
    expected = sorted(zip(lines, vectors, strict=True), key=lambda row: -float(row[1] @ query))
    rows = search_results(page)
    assert [text for text, _ in rows] == [text for text, _ in expected]
    shown = [float(value.replace("−", "-")) for _, value in rows]
    np.testing.assert_allclose(shown, [vector @ query for _, vector in expected], atol=6e-5)
    bars = page.evaluate(
        "[...document.querySelectorAll('.nearest .bar')]"
        ".map(bar => bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width)"
    )
    np.testing.assert_allclose(bars, np.abs(shown) / 2, atol=0.01)
    assert page.inner_text("#found") == page.inner_text("#announcement") == "4 lines, the nearest first."
    assert record.failed == []


def test_lines_beyond_the_request_limit_are_sent_in_several_requests(
    page: Page, record: Record, server_url: str
) -> None:
    limit = request_json(server_url, "info")["max_items"]
    lines = [f"line number {number}" for number in range(2 * limit)]
    search(page, "line number 3", lines)
    assert len(search_results(page)) == min(len(lines), 100)
    assert search_results(page)[0] == ["line number 3", "1.0000"]
    assert sum(request.url.endswith("/embed") for request in record.requests) == 3
    assert record.failed == []


def test_markup_in_a_text_is_shown_as_text(page: Page, server_url: str) -> None:
    compare(page, HOSTILE, "cat")
    (tokens,) = request_json(server_url, "tokenize", inputs=HOSTILE, add_special_tokens=True)
    assert chips(page, 0) == tokens
    search(page, "cat", [HOSTILE, "<b>moon</b>"])
    assert {text for text, _ in search_results(page)} == {HOSTILE, "<b>moon</b>"}
    answer_next(page, "/embed", (400, error_body(HOSTILE)))
    compare(page, "a", "b")
    assert page.inner_text("#compare-error") == f"The server cannot read this request. {HOSTILE}"
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.querySelectorAll('img, b').length") == 0


def test_injected_markup_is_blocked_by_the_policy(server_url: str, browser: Browser) -> None:
    with open_page(browser) as (page, record):
        open_url(page, server_url)
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran=1\">')")
        wait_until(page, "document.images[0].complete")
        page.wait_for_timeout(50)
        assert page.evaluate("window.ran") is None
        assert any("Content Security Policy" in words for words in record.console)


@pytest.mark.parametrize("index", [0, 1])
def test_error_of_a_text_is_shown_beside_it(page: Page, server_url: str, index: int) -> None:
    limit = request_json(server_url, "info")["max_text_tokens"]
    texts = ["cat", "cat"]
    texts[index] = "cat " * (limit + 1)
    compare(page, *texts)
    assert page.inner_text(f"#text-{index}-error").startswith("The server does not accept this text. ")
    assert page.evaluate(f"document.getElementById('text-{index}').ariaInvalid") == "true"
    assert not page.is_visible("#compare-result")
    assert page.inner_text(f"#text-{1 - index}-error") == page.inner_text("#compare-error") == ""
    assert page.is_visible(f"#tokens-{index}")  # its tokens show its length
    compare(page, "cat", "dog")
    assert page.is_visible("#compare-result")
    assert page.inner_text(f"#text-{index}-error") == ""
    assert page.evaluate(f"document.getElementById('text-{index}').ariaInvalid") is None


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (400, {}, error_body("no."), "The server cannot read this request. no."),
        (413, {}, error_body("300 MB."), "The request is too large. 300 MB."),
        (422, {}, error_body("no."), "The server does not accept this text. no."),
        (429, {"Retry_After": "1"}, error_body("10 wait."), "The server is busy. 10 wait. Try again in 1 second."),
        (429, {"Retry_After": "7"}, error_body(""), "The server is busy. Try again in 7 seconds."),
        (503, {"Retry_After": "soon"}, error_body("It loads."), "The server is not ready. It loads."),
        (504, {}, "<h1>Gateway</h1>", "The server took too long."),
        (502, {}, "<h1>Gateway</h1>", "The server answered with an error (502)."),
        (200, {}, "not JSON", "The server’s answer cannot be read."),
    ],
)
def test_errors_are_shown_as_messages(
    page: Page, status: int, headers: dict[str, str], body: object, words: str
) -> None:
    for form, act in (("compare", lambda: compare(page, "a", "b")), ("search", lambda: search(page, "a", ["b"]))):
        answer_next(page, "/embed", (status, body), **headers)
        act()
        assert page.inner_text(f"#{form}-error") == words
        assert page.evaluate(f"document.getElementById('{form}-error').role") == "alert"
        assert not page.is_visible(f"#{form}-result")
        act()
        assert page.is_visible(f"#{form}-result")
        assert page.inner_text(f"#{form}-error") == ""


def test_error_of_a_line_is_shown_with_its_line_number(page: Page, server_url: str) -> None:
    answer_next(page, "/embed", (422, error_body("too long", "inputs.2")))
    search(page, "cat", ["a", "", "b"])
    assert page.inner_text("#lines-error") == "Line 3: The server does not accept this text. too long"
    answer_next(page, "/embed", (422, error_body("too long", "inputs.0")))
    search(page, "cat", ["a"])
    assert page.inner_text("#query-error") == "The server does not accept this text. too long"
    assert page.inner_text("#lines-error") == ""
    limit = request_json(server_url, "info")["max_items"]
    second_text_of_second_request = (422, error_body("too long", "inputs.1"))
    answer_next(page, "/embed", (200, [[1, 0]] * limit), second_text_of_second_request)
    search(page, "cat", ["a"] * (limit + 3))
    assert page.inner_text("#lines-error").startswith(f"Line {limit + 1}: ")
    search(page, "cat", ["", " "])
    assert page.inner_text("#lines-error") == "There are no lines to search."


def test_model_facts_can_be_requested_again_after_an_error(empty_page: Page, server_url: str) -> None:
    answer_next(empty_page, "/info", (503, error_body("It loads.")))
    page = open_url(empty_page, server_url)
    assert page.inner_text("#info-error") == "The server is not ready. It loads."
    page.click("#retry")
    wait_until(page, "facts.innerText.includes('dimensions')")
    assert not page.is_visible("#retry")
    assert page.inner_text("#info-error") == ""


def test_unreachable_server_is_reported(empty_page: Page, folder: Path) -> None:
    with run_server(folder) as url:
        page = open_url(empty_page, url)
    compare(page, "a", "b")
    assert page.inner_text("#compare-error") == "The server cannot be reached."


def test_texts_without_tokens_have_no_similarity(empty_page: Page, artifact_folder: Path) -> None:
    with run_server(artifact_folder) as url:
        page = open_url(empty_page, url)
        compare(page, "", "cat")
        assert page.inner_text("#similarity") == page.inner_text("#tokens-0 .count") == "no tokens"
        assert not page.is_visible("#meter")
        compare(page, "dog", "cat")
        assert page.is_visible("#meter")
        answer_next(page, "/embed", (200, [[1, 0], [0, 0], [-0.6, 0.8], [0.6, 0.8]]))
        search(page, "a", ["b", "c", "d"])
        assert search_results(page) == [["d", "0.6000"], ["c", "−0.6000"], ["b", "no tokens"]]
        search(page, "", ["b", "c"])
        assert page.inner_text("#found") == "The query has no tokens, so it has no nearest lines."
        assert search_results(page) == []


def test_only_the_answer_to_the_last_request_is_shown(page: Page, record: Record) -> None:
    page.fill("#text-1", "cat")
    page.evaluate(
        "{ const fetched = fetch; let late = 200;"  # the first answers come last
        " window.fetch = (...all) => new Promise(done => setTimeout(done, late)).then(() => fetched(...all));"
        " for (const text of ['moon', 'rain', 'cat']) {"
        " document.getElementById('text-0').value = text;"
        " document.getElementById('compare').requestSubmit(); late -= 100; } }"
    )
    wait_for_result(page, "compare")
    page.wait_for_timeout(400)
    assert page.inner_text("#similarity") == "1.0000"
    assert record.failed == []  # requests that the page cancelled do not count


def test_api_key_is_asked_for_sent_and_not_stored(empty_page: Page, record: Record, folder: Path) -> None:
    page = empty_page
    with run_server(folder, KEY) as url:
        page.goto(f"{url}/#a=moon&b=moon")
        wait_until(page, "document.activeElement.id === 'key'")
        for wrong, words in (
            ("", "Enter the key first."),
            ("kéy", "A key has only visible ASCII characters."),
            ("wrong", "The server does not accept this key."),
        ):
            page.fill("#key", wrong)
            page.keyboard.press("Enter")
            wait_until(page, f"document.getElementById('key-error').innerText === {json.dumps(words)}")
        assert not page.is_visible("#compare-result")
        record.requests.clear()
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        wait_until(page, "facts.innerText.includes('dimensions')")
        wait_for_result(page, "compare")
        assert page.inner_text("#similarity") == "1.0000"  # the requests that waited for the key were sent
        assert not page.is_visible("#key-form")
        sent = {
            urllib.parse.urlsplit(request.url).path: request.headers.get("authorization") for request in record.requests
        }
        assert sent == dict.fromkeys(["/info", "/embed", "/tokenize"], f"Bearer {KEY}")
        stored = (
            "[location.href, document.cookie, JSON.stringify({...localStorage, ...sessionStorage}), key.value].join()"
        )
        assert KEY not in page.evaluate(stored.replace("key.value", "document.getElementById('key').value"))
        page.reload()
        wait_until(page, "document.activeElement.id === 'key'")


def test_shared_url_shows_the_same(page: Page, browser: Browser) -> None:
    compare(page, "the cat & <b>", "a = b # c")
    search(page, "cat", ["the cat", "100 % moon"])
    with open_page(browser) as (other, _):
        other.goto(page.evaluate("location.href"))
        wait_for_result(other, "compare")
        wait_for_result(other, "search")
        assert other.inner_text("#similarity") == page.inner_text("#similarity")
        assert search_results(other) == search_results(page)
        assert other.evaluate("document.getElementById('text-1').value") == "a = b # c"
    page.fill("#text-0", "cat " * 10)
    search(page, "cat", ["moon " * 30] * 100)
    assert page.evaluate("location.hash") == ""  # too long to be shared


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_in_the_preferred_color_scheme(browser: Browser, server_url: str, scheme: str) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "color_scheme": scheme}
    with open_page(browser, **phone) as (page, _):
        open_url(page, server_url)
        compare(page, "x" * 200 + " " + HOSTILE, "cat")
        search(page, "cat", ["y" * 200, "cat"])
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(it => it > 200)")
        assert light == (scheme == "light")


def test_every_control_has_an_accessible_name(page: Page) -> None:
    page.evaluate("document.getElementById('key-form').hidden = false")
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = [
        node for node in nodes if node.get("role", {}).get("value") in ("textbox", "button", "checkbox", "form")
    ]
    names = {node.get("name", {}).get("value") for node in controls}
    assert names >= {"API key", "First text", "Second text", "Query", "Lines", "Compare", "Find the nearest"}
    assert "" not in names
