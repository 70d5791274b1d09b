"""Servers under audit: sound ones, those that merge, cut, hang or answer nonsense."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.audit_models import plain_function
from helpers.embedding_server import race, serving
from helpers.serving import ServerProcess
from lengthwise.errors import AuditError
from lengthwise.export.audit.answers import Audit
from lengthwise.export.audit.ask import audit_target
from lengthwise.export.audit.run import run_audit
from lengthwise.export.audit.targets.base import NotAsked, Unanswered
from lengthwise.export.audit.targets.open import OpenOptions, open_target
from lengthwise.export.audit.targets.server import ServerTarget

NAMES = (
    "neighbours",
    "mixed lengths",
    "batch size",
    "order",
    "repeat",
    "threads",
    "distinct",
    "every token",
    "one token",
)


def audit(url: str, *names: str) -> Audit:
    return audit_target(open_target(url, quick=True), quick=True, names=names or NAMES)


@pytest.mark.parametrize("interface", ["openai", "tei"])
@pytest.mark.parametrize("route", [True, False])
def test_a_sound_server_passes(interface: str, route: bool) -> None:
    with serving(plain_function, interface=interface) as url:
        found = audit(url + {"openai": "/v1/embeddings", "tei": "/embed"}[interface] if route else url)
        assert found.passed, found.failed
        assert found.kind.startswith("server, ")
        assert {answer.verdict for answer in found.answers} == {"pass"}


def test_vectors_that_depend_on_the_request_are_found() -> None:
    def merged(texts: list[str]) -> np.ndarray:
        vectors = plain_function(texts)
        return vectors + 0.01 * vectors.mean(axis=0)

    with serving(merged) as url:
        assert {"neighbours", "mixed lengths"} <= {answer.question for answer in audit(url).failed}


def test_requests_that_share_a_buffer_are_found() -> None:
    with serving(race(plain_function)) as url:
        answer = audit(url, "threads").answer("threads")
        assert answer.verdict == "fail"
        assert "4 callers at once" in answer.says


@pytest.mark.parametrize("says_so", [True, False])
def test_long_texts_are_cut_or_refused(says_so: bool) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        if says_so and max(len(text.split()) for text in texts) > 100:
            raise ValueError("at most 100 tokens")
        return plain_function([" ".join(text.split()[:100]) for text in texts])

    with serving(encode) as url:
        answer = audit(url, "long texts").answer("long texts")
        if says_so:
            assert answer.verdict == "pass"
            assert answer.says == (
                "a text is read up to 64 words at least; one of 128 is an error: HTTP 413: "
                '{"error": "at most 100 tokens"}'
            )
        else:
            assert answer.verdict == "limit"
            assert answer.says == "from about word 101 on, the rest of a text is left out silently"


def test_what_the_server_says_of_its_model() -> None:
    info = {"model_dtype": "float16", "max_input_length": 300}
    with serving(plain_function, interface="tei", info=info) as url:
        target = ServerTarget(url)
        assert (target.precision, target.claims.max_length) == ("float16", 300)
        assert audit_target(target, quick=True, names=["length 1"]).answer("length 1").verdict == "fail"


def test_a_server_that_hangs_at_once_is_refused() -> None:
    with serving(plain_function, hang=lambda number: True) as url:
        start = time.monotonic()
        with pytest.raises(AuditError, match=r"cannot be audited: .*the server gave no answer within 1.5 s"):
            open_target(url, OpenOptions(timeout=1.5))
        assert time.monotonic() - start < 20


def test_a_server_that_hangs_later_does_not_pass() -> None:
    with serving(plain_function, hang=lambda number: number > 8) as url:
        found = audit_target(open_target(url, OpenOptions(timeout=1.5), quick=True), quick=True, names=NAMES)
        assert not found.passed
        words = [answer.says for answer in found.answers]
        assert any("no answer within" in each for each in words)
        assert len(found.by_verdict("pass")) <= 1


@pytest.mark.parametrize(
    ("question", "is_silent"),
    [
        ("empty text", lambda texts: "" in texts),
        ("long texts", lambda texts: max(len(text.split()) for text in texts) > 100),
        ("after a long text", lambda texts: max(len(text.split()) for text in texts) > 100),
        ("mixed lengths", lambda texts: len(texts) == 5 and any(" " in text for text in texts)),
    ],
)
def test_silence_is_a_failure_of_what_was_asked(question: str, is_silent: Callable[[list[str]], bool]) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        if is_silent(texts):
            time.sleep(2)
        return plain_function(texts)

    with serving(encode) as url:
        target = open_target(url, OpenOptions(timeout=0.7), quick=True)
        answer = audit_target(target, quick=True, names=[question]).answer(question)
        assert answer.verdict == "fail"
        assert "the server gave no answer within 0.7 s" in answer.says


def test_an_error_does_not_say_that_texts_have_the_same_vector() -> None:
    def encode(texts: list[str]) -> np.ndarray:
        if len(texts) == 1 and len(texts[0].split()) == 3:  # what "distinct" sends
            raise ValueError("overloaded")
        return plain_function(texts)

    with serving(encode) as url:
        found = audit(url, "distinct", "batch size")
        assert found.answer("distinct").says.startswith("it fails: HTTP 413")
        assert found.answer("batch size").verdict == "pass"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[1.0, 2.0], [1.0]], "vectors of different sizes"),
        ([[1.0, 2.0]], "for 2 texts"),
        ([["a", "b"], ["c", "d"]], "instead of numbers"),
        ([[], []], "not one vector for each"),
        ([[None, None], [None, None]], "values such as null instead of numbers"),
    ],
)
def test_nonsense_is_no_answer(answer: Any, message: str) -> None:
    def encode(texts: list[str]) -> Any:
        return answer if len(texts) == 2 else plain_function(texts)

    with serving(encode, interface="tei") as url, pytest.raises(Unanswered, match=message):
        ServerTarget(url).encode_texts(["a", "b"])


def test_no_server_is_said() -> None:
    with serving(plain_function) as url:
        pass
    with pytest.raises(AuditError, match="cannot be reached"):
        open_target(url)
    with pytest.raises(AuditError, match="names no host"):
        open_target("http://")


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:port/v1/embeddings"])
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(AuditError, match=r"not a URL .*; give a URL such as"):
        open_target(url)


def test_another_service_is_said() -> None:
    with serving(plain_function, interface="tei") as url, pytest.raises(AuditError, match="HTTP 404"):
        open_target(f"{url}/v1/embeddings")


def test_padding_cannot_be_chosen() -> None:
    with serving(plain_function) as url:
        found = audit(url, "padding width", "edge ids", "pooling")
        assert {answer.verdict for answer in found.answers} == {"not asked"}
        assert not found.passed
        with pytest.raises(NotAsked):
            ServerTarget(url).with_one_thread()


@pytest.mark.slow
@pytest.mark.parametrize("route", ["", "/embed"])
def test_our_own_server_passes(artifact_folder: Path, route: str) -> None:
    server = ServerProcess(artifact_folder)
    try:
        server.wait_until_ready()
        found = run_audit(server.url + route, quick=True, questions=NAMES)
        assert found.failed == ()
        assert len(found.by_verdict("pass")) >= 5
    finally:
        server.close()
