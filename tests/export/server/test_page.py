"""The server's page in a real browser: what it shows, what it says of errors, and that nothing in a text runs."""

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

from helpers.browser import Browser, Page
from helpers.paths import ROOT
from helpers.serving import Served
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
    """An artifact whose tokenizer cuts words into bytes and puts special tokens around a text."""
    training = TokenizerTraining(model="byte_bpe", vocab_size=300, bos_token="[B]", eos_token="[E]")
    tokenizer = train_tokenizer(TEXTS, training)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        embedding_dim=8,
        hidden_size=6,
        trained=False,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    place = tmp_path_factory.mktemp("page") / "artifact"
    build_artifact(seeded_encoder(config, 0), tokenizer, place)
    return place


@contextlib.contextmanager
def serving(folder: Path, api_key: str | None = None) -> Iterator[str]:
    """The URL of a running server.

    All that is known here of the server is its contract: what the page should show is asked of the server itself.
    """
    environment = {} if api_key is None else {"LENGTHWISE_API_KEY": api_key}
    served = Served(folder, "--max-items", "6", "--max-text-tokens", "90", environment=environment).ready()
    try:
        yield served.url
    finally:
        served.close()


@pytest.fixture(scope="module")
def server_url(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """An empty page; whatever is done with it, it asks one host alone, and its console stays empty."""
    with browser.page() as page:
        yield page
        page.evaluate("new Promise(done => setTimeout(done, 50))")
        assert page.console == []
        assert page.evaluate("window.ran") is None
        hosts = {urllib.parse.urlsplit(request.url).hostname for request in page.requests}
        assert hosts <= {"127.0.0.1", None}, hosts  # none: the picture that the page itself holds


@pytest.fixture
def page(tab: Page, server_url: str) -> Page:
    return opened(tab, server_url)


def opened(tab: Page, url: str) -> Page:
    tab.open(f"{url}/")
    tab.wait_until(
        "facts.innerText && !facts.innerText.includes('Asking') || document.querySelector('.error').innerText"
    )
    return tab


def ask(url: str, path: str, **body: object) -> Any:
    """What the server answers to a request that is not the page's."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{url}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def vectors_of(url: str, texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array(ask(url, "embed", inputs=list(texts), normalize=True))


def error_body(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


def compare(page: Page, first: str, second: str) -> None:
    page.fill("#text-0", first)
    page.fill("#text-1", second)
    page.click("#compare button[type=submit]")
    settle(page, "compare")


def search(page: Page, query: str, lines: Sequence[str]) -> None:
    page.fill("#lines", "\n".join(lines))
    page.fill("#query", query)
    page.press("Enter")
    settle(page, "search")


def settle(page: Page, form: str) -> None:
    """Wait until a form has a result, or an error to show; both are cleared when it is sent."""
    shown = f"#{form} .error, #{form}-result, #key-form"
    page.wait_until(
        f"document.getElementById('{form}').ariaBusy !== 'true'"
        f" && [...document.querySelectorAll('{shown}')].some(it => it.checkVisibility())"
    )


def similarity(page: Page) -> float:
    return float(page.text("#similarity").replace("−", "-"))


def found(page: Page) -> list[list[str]]:
    lines = "[...document.querySelectorAll('.nearest li')]"
    rows: list[list[str]] = page.evaluate(
        f"{lines}.map(li => [li.querySelector('bdi').innerText, li.querySelector('.value').innerText])"
    )
    return rows


def chips(page: Page, which: int) -> list[dict[str, Any]]:
    """The chips below a text, in the form of the server's tokens."""
    seen = "({text: it.querySelector('bdi').innerText, title: it.title, special: it.classList.contains('special')})"
    found: list[dict[str, Any]] = page.evaluate(
        f"[...document.querySelectorAll('#tokens-{which} .chip')].map(it => {seen})"
    )
    return [{"id": int(re.search(r"\d+", chip.pop("title"))[0]), **chip} for chip in found]  # type: ignore[index]


def test_the_page_allows_its_own_script_alone_and_names_no_other_host() -> None:
    html = PAGE.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
    assert set(re.findall(r"https?://[^'\"\s]*", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Storage|cookie", html)


def test_the_model_is_introduced(page: Page, server_url: str) -> None:
    info = ask(server_url, "info")
    assert page.text("#model") == info["model_id"]
    assert f"{info['dim']} dimensions" in page.text("#facts")
    assert page.visible("#untrained") == (not info["trained"])
    assert page.failed == []


@pytest.mark.parametrize("trained", [True, False])
def test_an_encoder_that_was_never_trained_is_called_so(tab: Page, server_url: str, trained: bool) -> None:
    tab.answer_instead("/info", 200, {"model_id": "<b>x</b>", "dim": 1024, "trained": trained})
    page = opened(tab, server_url)
    assert page.visible("#untrained") is not trained
    assert (page.text("#model"), page.text("#facts")) == ("<b>x</b>", "1,024 dimensions")


@pytest.mark.parametrize("by", ["button", "Enter"])
def test_the_similarity_of_two_texts_appears_when_asked_for(page: Page, server_url: str, by: str) -> None:
    texts = ["the cat sat on the mat", "a dog sat on the mat"]
    for number, text in enumerate(texts):
        page.fill(f"#text-{number}", text)
    assert not page.visible("#compare-result")
    if by == "Enter":
        page.press("Enter")
    else:
        page.click("#compare button[type=submit]")
    settle(page, "compare")
    first, second = vectors_of(server_url, texts)
    assert similarity(page) == pytest.approx(first @ second, abs=6e-5)
    assert page.text("#said") == f"Cosine similarity: {page.text('#similarity')}"
    assert not page.visible("#compare .was")
    page.fill("#text-0", "moon")
    assert page.visible("#compare .was")  # the result is of other texts now
    sent = [json.loads(request.body or "null") for request in page.requests if request.url.endswith("/embed")]
    assert [(body["inputs"], body["normalize"]) for body in sent] == [(texts, True)]
    assert page.failed == []


def test_a_text_compared_with_itself_and_a_line_begun_by_shift_and_enter(page: Page) -> None:
    page.fill("#text-0", "rain")
    page.press("Enter", "Shift")
    assert page.evaluate("document.getElementById('text-0').value") == "rain\n"
    assert not any(request.method == "POST" for request in page.requests)
    compare(page, "rain fell", "rain fell")
    assert page.text("#similarity") == "1.0000"


def test_tokens_are_shown_and_special_ones_marked(page: Page, server_url: str) -> None:
    texts = ["the cat sat", "moon"]
    compare(page, *texts)
    for which, tokens in enumerate(ask(server_url, "tokenize", inputs=texts, add_special_tokens=True)):
        assert any(token["special"] for token in tokens)
        assert chips(page, which) == tokens
        special = sum(token["special"] for token in tokens)
        assert page.text(f"#tokens-{which} .count") == f"{len(tokens)} tokens, {special} special"
        heard = page.evaluate(f"[...document.querySelectorAll('#tokens-{which} li')].map(it => it.textContent)")
        expected = [f"{it['text']} id {it['id']}{', special token' * it['special']}" for it in tokens]
        assert heard == expected
    width = "document.querySelector('.id').getBoundingClientRect().width"
    assert page.evaluate(width) == 1
    page.click("#ids")
    assert page.evaluate(width) > 10


def test_tokens_that_cannot_be_seen_are_made_visible_and_long_lists_wait(page: Page) -> None:
    tokens = [{"id": 5, "text": text, "special": False} for text in (" a", "\n", "", "\u200b", "\u202eb", "▁c")]
    many = [{"id": 6, "text": "x", "special": False}] * 400
    page.answer_instead("/tokenize", 200, [tokens, many])
    compare(page, "a", "b")
    assert [chip["text"] for chip in chips(page, 0)] == ["␣a", "␊", "(empty)", "U+200B", "U+202Eb", "▁c"]
    assert (len(chips(page, 1)), page.text("#tokens-1 .count")) == (300, "400 tokens")
    page.click("#tokens-1 .more")
    assert len(chips(page, 1)) == 400
    assert not page.visible("#tokens-1 .more")


def test_the_nearest_lines_come_first(page: Page, server_url: str) -> None:
    search(page, QUERY, LINES)
    lines = [line for line in LINES if line]
    query, *vectors = vectors_of(server_url, [QUERY, *lines])
    expected = sorted(zip(lines, vectors, strict=True), key=lambda row: -float(row[1] @ query))
    rows = found(page)
    assert [text for text, _ in rows] == [text for text, _ in expected]
    shown = [float(value.replace("−", "-")) for _, value in rows]
    np.testing.assert_allclose(shown, [vector @ query for _, vector in expected], atol=6e-5)
    bars = page.evaluate(
        "[...document.querySelectorAll('.nearest .bar')]"
        ".map(bar => bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width)"
    )
    np.testing.assert_allclose(bars, np.abs(shown) / 2, atol=0.01)
    assert page.text("#found") == page.text("#said") == "4 lines, the nearest first."
    assert page.failed == []


def test_more_lines_than_a_request_may_hold_go_in_several(page: Page, server_url: str) -> None:
    most = ask(server_url, "info")["max_items"]
    lines = [f"line number {number}" for number in range(2 * most)]
    search(page, "line number 3", lines)
    assert len(found(page)) == min(len(lines), 100)
    assert found(page)[0] == ["line number 3", "1.0000"]
    assert sum(request.url.endswith("/embed") for request in page.requests) == 3
    assert page.failed == []


def test_markup_in_a_text_is_shown_as_text_and_nothing_runs(page: Page, server_url: str) -> None:
    compare(page, HOSTILE, "cat")
    (tokens,) = ask(server_url, "tokenize", inputs=HOSTILE, add_special_tokens=True)
    assert chips(page, 0) == tokens
    search(page, "cat", [HOSTILE, "<b>moon</b>"])
    assert {text for text, _ in found(page)} == {HOSTILE, "<b>moon</b>"}
    page.answer_instead("/embed", 400, error_body(HOSTILE))
    compare(page, "a", "b")
    assert page.text("#compare-error") == f"The server could not read this request. {HOSTILE}"
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.querySelectorAll('img, b').length") == 0


def test_even_markup_that_were_put_in_would_not_run(server_url: str, browser: Browser) -> None:
    with browser.page() as page:
        opened(page, server_url)
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran=1\">')")
        page.wait_until("document.images[0].complete")
        page.evaluate("new Promise(done => setTimeout(done, 50))")
        assert page.evaluate("window.ran") is None
        assert any("Content Security Policy" in words for words in page.console)


@pytest.mark.parametrize("which", [0, 1])
def test_a_text_that_the_server_cannot_take_is_named(page: Page, server_url: str, which: int) -> None:
    most = ask(server_url, "info")["max_text_tokens"]
    texts = ["cat", "cat"]
    texts[which] = "cat " * (most + 1)
    compare(page, *texts)
    assert page.text(f"#text-{which}-error").startswith("The server cannot take this text. ")
    assert page.evaluate(f"document.getElementById('text-{which}').ariaInvalid") == "true"
    assert not page.visible("#compare-result")
    assert page.text(f"#text-{1 - which}-error") == page.text("#compare-error") == ""
    assert page.visible(f"#tokens-{which}")  # so that it is seen how long it is
    compare(page, "cat", "dog")
    assert page.visible("#compare-result")
    assert page.text(f"#text-{which}-error") == ""
    assert page.evaluate(f"document.getElementById('text-{which}').ariaInvalid") is None


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (400, {}, error_body("no."), "The server could not read this request. no."),
        (413, {}, error_body("300 MB."), "This is more than the server takes at once. 300 MB."),
        (422, {}, error_body("no."), "The server cannot take this text. no."),
        (429, {"Retry_After": "1"}, error_body("10 wait."), "The server is busy. 10 wait. Try again in 1 second."),
        (429, {"Retry_After": "7"}, error_body(""), "The server is busy. Try again in 7 seconds."),
        (503, {"Retry_After": "soon"}, error_body("It loads."), "The server is not ready. It loads."),
        (504, {}, "<h1>Gateway</h1>", "The server took too long."),
        (502, {}, "<h1>Gateway</h1>", "The server answered with an error (502)."),
        (200, {}, "not JSON", "The server’s answer cannot be read."),
    ],
)
def test_errors_are_said_in_words(page: Page, status: int, headers: dict[str, str], body: object, words: str) -> None:
    for form, act in (("compare", lambda: compare(page, "a", "b")), ("search", lambda: search(page, "a", ["b"]))):
        page.answer_instead("/embed", status, body, **headers)
        act()
        assert page.text(f"#{form}-error") == words
        assert page.evaluate(f"document.getElementById('{form}-error').role") == "alert"
        assert not page.visible(f"#{form}-result")
        act()
        assert page.visible(f"#{form}-result")
        assert page.text(f"#{form}-error") == ""


def test_an_error_names_the_line_as_it_is_counted_in_the_field(page: Page, server_url: str) -> None:
    page.answer_instead("/embed", 422, error_body("too long", "inputs.2"))
    search(page, "cat", ["a", "", "b"])
    assert page.text("#lines-error") == "Line 3: The server cannot take this text. too long"
    page.answer_instead("/embed", 422, error_body("too long", "inputs.0"))
    search(page, "cat", ["a"])
    assert (page.text("#query-error"), page.text("#lines-error")) == ("The server cannot take this text. too long", "")
    most = ask(server_url, "info")["max_items"]
    page.answer_instead("/embed", 200, [[1, 0]] * most)
    page.answer_instead("/embed", 422, error_body("too long", "inputs.1"))  # the second of the second request
    search(page, "cat", ["a"] * (most + 3))
    assert page.text("#lines-error").startswith(f"Line {most + 1}: ")
    search(page, "cat", ["", " "])
    assert page.text("#lines-error") == "There are no lines to search."


def test_an_error_about_the_model_can_be_asked_again(tab: Page, server_url: str) -> None:
    tab.answer_instead("/info", 503, error_body("It loads."))
    page = opened(tab, server_url)
    assert page.text("#info-error") == "The server is not ready. It loads."
    page.click("#again")
    page.wait_until("facts.innerText.includes('dimensions')")
    assert not page.visible("#again")
    assert page.text("#info-error") == ""


def test_a_server_that_is_gone_is_missed(tab: Page, folder: Path) -> None:
    with serving(folder) as url:
        page = opened(tab, url)
    compare(page, "a", "b")
    assert page.text("#compare-error") == "The server cannot be reached."


def test_texts_of_no_tokens_have_no_similarity(tab: Page, artifact_folder: Path) -> None:
    with serving(artifact_folder) as url:
        page = opened(tab, url)
        compare(page, "", "cat")
        assert page.text("#similarity") == page.text("#tokens-0 .count") == "no tokens"
        assert not page.visible("#meter")
        compare(page, "dog", "cat")
        assert page.visible("#meter")
        page.answer_instead("/embed", 200, [[1, 0], [0, 0], [-0.6, 0.8], [0.6, 0.8]])
        search(page, "a", ["b", "c", "d"])
        assert found(page) == [["d", "0.6000"], ["c", "−0.6000"], ["b", "no tokens"]]
        search(page, "", ["b", "c"])
        assert page.text("#found") == "The query has no tokens: no line is near to it."
        assert found(page) == []


def test_only_the_last_answer_is_shown(page: Page) -> None:
    page.fill("#text-1", "cat")
    page.evaluate(
        "{ const fetched = fetch; let late = 200;"  # the first answers come last
        " window.fetch = (...all) => new Promise(done => setTimeout(done, late)).then(() => fetched(...all));"
        " for (const text of ['moon', 'rain', 'cat']) {"
        " document.getElementById('text-0').value = text;"
        " document.getElementById('compare').requestSubmit(); late -= 100; } }"
    )
    settle(page, "compare")
    page.evaluate("new Promise(done => setTimeout(done, 400))")
    assert page.text("#similarity") == "1.0000"
    assert page.failed == []  # requests that the page gave up do not count


def test_a_key_is_asked_for_sent_and_kept_nowhere(tab: Page, folder: Path) -> None:
    with serving(folder, KEY) as url:
        page = tab
        page.open(f"{url}/#a=moon&b=moon")
        page.wait_until("document.activeElement.id === 'key'")
        for wrong, words in (
            ("", "Type the key first."),
            ("kéy", "A key has only visible ASCII characters."),
            ("wrong", "The server does not accept this key."),
        ):
            page.fill("#key", wrong)
            page.press("Enter")
            page.wait_until(f"document.getElementById('key-error').innerText === {json.dumps(words)}")
        assert not page.visible("#compare-result")
        page.requests.clear()
        page.fill("#key", KEY)
        page.press("Enter")
        page.wait_until("facts.innerText.includes('dimensions')")
        settle(page, "compare")
        assert page.text("#similarity") == "1.0000"  # what had to wait was done
        assert not page.visible("#key-form")
        sent = {
            urllib.parse.urlsplit(request.url).path: request.headers.get("Authorization") for request in page.requests
        }
        assert sent == dict.fromkeys(["/info", "/embed", "/tokenize"], f"Bearer {KEY}")
        held = (
            "[location.href, document.cookie, JSON.stringify({...localStorage, ...sessionStorage}), key.value].join()"
        )
        assert KEY not in page.evaluate(held.replace("key.value", "document.getElementById('key').value"))
        page.call("Page.reload")
        page.wait_until("document.activeElement.id === 'key'")


def test_an_address_that_is_passed_on_shows_the_same(page: Page, browser: Browser) -> None:
    compare(page, "the cat & <b>", "a = b # c")
    search(page, "cat", ["the cat", "100 % moon"])
    with browser.page() as other:
        other.open(page.evaluate("location.href"))
        settle(other, "compare")
        settle(other, "search")
        assert other.text("#similarity") == page.text("#similarity")
        assert found(other) == found(page)
        assert other.evaluate("document.getElementById('text-1').value") == "a = b # c"
    page.fill("#text-0", "cat " * 10)
    search(page, "cat", ["moon " * 30] * 100)
    assert page.evaluate("location.hash") == ""  # too long to be passed on


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_the_colours_that_are_preferred(page: Page, scheme: str) -> None:
    page.look(width=360, height=740, scheme=scheme)
    compare(page, "x" * 200 + " " + HOSTILE, "cat")
    search(page, "cat", ["y" * 200, "cat"])
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(it => it > 200)")
    assert light == (scheme == "light")


def test_what_can_be_used_has_a_name(page: Page) -> None:
    page.evaluate("document.getElementById('key-form').hidden = false")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    usable = [node for node in nodes if node.get("role", {}).get("value") in ("textbox", "button", "checkbox", "form")]
    names = {node.get("name", {}).get("value") for node in usable}
    assert names >= {"API key", "First text", "Second text", "Query", "Lines", "Compare", "Find the nearest"}
    assert "" not in names
