"""Texts to ids: a row has the ids that the tokenizers library gives for its text alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from helpers.ragged import check_ragged, rows
from lengthwise.config import TokenizationSettings, TokenizerTraining
from lengthwise.errors import BadRowsError, TextError
from lengthwise.tokens import tokenize
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import split_texts, tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer
from lengthwise.util.threads import prefetch

CORPUS = ["the cat sat on the mat", "a dog barked at the moon", "rain fell on the sea", "the sea"] * 2
TRAINED: dict[str, dict[str, Any]] = {
    "wordlevel": {"model": "wordlevel"},
    "byte_bpe": {"model": "byte_bpe", "normalizers": (), "vocab_size": 300},
    "bos_eos": {"model": "wordpiece", "bos_token": "[CLS]", "eos_token": "[SEP]"},
    "two_and_two": {"model": "char", "normalizers": ()},
}
TEXTS = st.lists(
    st.text(max_size=12)
    | st.lists(st.sampled_from([*" ".join(CORPUS).split(), "zebra"]), max_size=8).map(" ".join)
    | st.sampled_from(["", " ", "\n\t ", "\0", "a\0b", "\U0001f600 \U0001f468\u200d\U0001f469", "[CLS]", "[PAD] the"]),
    max_size=9,
)
properties = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the fixture sets one constant, the same for every example


def make(name: str) -> TextTokenizer:
    trained = train_tokenizer(CORPUS, TokenizerTraining(**{"vocab_size": 200, **TRAINED[name]}))
    if name != "two_and_two":
        return trained
    library = Tokenizer.from_str(trained.to_json())
    around = [("[PAD]", 0), ("[UNK]", 1)]
    library.post_processor = processors.TemplateProcessing(single="[UNK] [PAD] $A [PAD] [UNK]", special_tokens=around)
    return TextTokenizer(library)


@pytest.fixture(scope="module", params=TRAINED)
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return make(request.param)


@pytest.fixture(scope="module")
def wordlevel() -> TextTokenizer:
    return make("wordlevel")


@pytest.fixture(scope="module")
def bos_eos() -> TextTokenizer:
    return make("bos_eos")


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "CHUNK_TEXTS", 3)


def alone(
    tokenizer: TextTokenizer, texts: Sequence[str], *, special: bool = True, max_length: int | None = None
) -> list[list[int]]:
    library = Tokenizer.from_str(tokenizer.to_json())
    if max_length is not None:
        library.enable_truncation(max_length)
    return [library.encode(text, add_special_tokens=special).ids for text in texts]


def arrow_of_bytes(*texts: bytes | None, large: bool = False) -> pa.Array:
    """A string array from its buffers, which are not checked for UTF-8."""
    offsets = np.cumsum([0, *(len(text or b"") for text in texts)], dtype=np.int64 if large else np.int32)
    valid = np.packbits([text is not None for text in texts], bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(b"".join(text or b"" for text in texts))]
    return pa.Array.from_buffers(pa.large_string() if large else pa.string(), len(texts), buffers)


@pytest.mark.usefixtures("_small_chunks")
@properties
@given(texts=TEXTS, special=st.booleans())
def test_row_has_the_ids_of_its_text_alone(tokenizer: TextTokenizer, texts: list[str], special: bool) -> None:
    tokens = tokenize_texts(texts, tokenizer, TokenizationSettings(add_special_tokens=special))
    check_ragged(tokens, len(texts))
    expected = alone(tokenizer, texts, special=special)
    assert rows(tokens) == expected
    assert tokens.lengths.tolist() == [len(row) for row in expected]
    assert tokens.empty.tolist() == [not row for row in expected]
    assert not tokens.truncated.any()
    assert not tokens.null.any()


@pytest.mark.usefixtures("_small_chunks")
@properties
@given(texts=TEXTS, max_length=st.integers(5, 9), special=st.booleans())
def test_truncation_equals_the_librarys(
    tokenizer: TextTokenizer, texts: list[str], max_length: int, special: bool
) -> None:
    tokens = tokenize_texts(
        texts, tokenizer, TokenizationSettings(max_length=max_length, truncate=True, add_special_tokens=special)
    )
    check_ragged(tokens, len(texts))
    assert rows(tokens) == alone(tokenizer, texts, special=special, max_length=max_length)
    whole = alone(tokenizer, texts, special=special)
    assert tokens.truncated.tolist() == [len(row) > max_length for row in whole]


@pytest.mark.parametrize("count", [511, 512, 513, 1_025])
def test_chunk_boundaries_lose_no_row(wordlevel: TextTokenizer, count: int) -> None:
    texts = [CORPUS[row % 4] for row in range(count)]
    assert rows(tokenize_texts(texts, wordlevel)) == (alone(wordlevel, CORPUS[:4]) * count)[:count]


def test_row_of_max_length_is_not_truncated_and_a_longer_one_is(bos_eos: TextTokenizer) -> None:
    texts = ["the", "the sea the", "the sea the sea", "the the the the the"]
    cls, sep = bos_eos.token_id("[CLS]"), bos_eos.token_id("[SEP]")
    the, sea = bos_eos.token_id("the"), bos_eos.token_id("sea")
    assert None not in (cls, sep, the, sea)
    tokens = tokenize_texts(texts, bos_eos, TokenizationSettings(max_length=5, truncate=True))
    assert tokens.truncated.tolist() == [False, False, True, True]
    assert rows(tokens) == [
        [cls, the, sep],
        [cls, the, sea, the, sep],
        [cls, the, sea, the, sep],
        [cls, the, the, the, sep],
    ]
    assert tokenize_texts(texts[:2], bos_eos, TokenizationSettings(max_length=5)).lengths.tolist() == [3, 5]


def test_too_long_rows_without_truncation_raise(bos_eos: TextTokenizer) -> None:
    texts = ["the", "the sea the sea the", "the sea the sea"]
    with pytest.raises(BadRowsError) as caught:
        tokenize_texts(texts, bos_eos, TokenizationSettings(max_length=5))
    message = str(caught.value.counted_from(1_000))
    assert "2 of the texts are longer than tokenizer.max_length = 5" in message
    assert "(row 1001: 7 tokens; row 1002: 6 tokens)" in message
    assert "set tokenizer.truncate to true, or set encode.bad_rows to quarantine or zero" in message
    tokenize_texts(texts, bos_eos, TokenizationSettings(max_length=7))


@pytest.mark.parametrize(("max_length", "special", "refused"), [(2, True, True), (3, True, False), (1, False, False)])
def test_max_length_filled_by_special_tokens_is_refused(
    bos_eos: TextTokenizer, max_length: int, special: bool, refused: bool
) -> None:
    def run() -> RaggedTokens:
        return tokenize_texts(
            ["the sea"], bos_eos, TokenizationSettings(max_length=max_length, truncate=True, add_special_tokens=special)
        )

    if not refused:
        assert run().lengths.tolist() == [max_length]
        return
    with pytest.raises(TextError, match=r"max_length is 2, but .* adds 2 special tokens .* above 2"):
        run()


BAD = [
    pytest.param(["the", None, "sea", "x\ud800", None], "row 14: not Unicode: a lone surrogate '\\ud800'", id="list"),
    pytest.param(arrow_of_bytes(b"the", None, b"sea", b"x\xff", None), "row 14: not Unicode: bytes", id="string"),
    pytest.param(
        arrow_of_bytes(b"the", None, b"sea", b"\xed\xa0\x80", None, large=True),
        "row 14: not Unicode: bytes that are not UTF-8",
        id="large_string",
    ),
    pytest.param(
        pa.chunked_array([arrow_of_bytes(b"the", None), arrow_of_bytes(b"sea", b"\xc3", None)]),
        "row 14: not Unicode: bytes",
        id="chunked",
    ),
    pytest.param(
        arrow_of_bytes(b"\xff", b"the", None, b"sea", b"x\xff", None, b"\xff")[1:6], "row 14: not Unicode", id="sliced"
    ),
]


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize(("texts", "reason"), BAD)
def test_bad_rows_raise(bos_eos: TextTokenizer, texts: Any, reason: str) -> None:
    with pytest.raises(BadRowsError) as caught:
        tokenize_texts(texts, bos_eos)
    message = str(caught.value.counted_from(11))
    assert message.startswith("3 of the texts cannot be encoded (row 12: null; row 14: not Unicode")
    assert reason in message
    assert "row 15: null)" in message
    assert "encode.bad_rows to quarantine, which sets such rows aside, or to zero" in message


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize(("texts", "reason"), BAD)
def test_bad_rows_have_no_ids_under_another_policy(bos_eos: TextTokenizer, texts: Any, reason: str) -> None:
    tokens = tokenize_texts(texts, bos_eos, bad_rows="zero")
    check_ragged(tokens, 5)
    the, sea = alone(bos_eos, ["the", "sea"])
    assert rows(tokens) == [the, [], sea, [], []]
    assert tokens.null.tolist() == [False, True, False, True, True]
    assert not tokens.empty.any()


def test_message_names_five_rows(wordlevel: TextTokenizer) -> None:
    with pytest.raises(BadRowsError) as caught:
        tokenize_texts([None] * 4_000, wordlevel)
    assert "row 4: null; and 3995 more)" in str(caught.value)
    assert "row 5" not in str(caught.value)


def test_value_that_is_no_text_is_named_by_its_type(wordlevel: TextTokenizer) -> None:
    with pytest.raises(TextError, match="row 1: not text, but int"):
        tokenize_texts(["the", 3], wordlevel)  # type: ignore[list-item]


@pytest.fixture(scope="module")
def strict() -> TextTokenizer:
    """A tokenizer of three words that refuses any other."""
    library = Tokenizer(models.WordLevel({"a": 0, "b": 1, "cc": 2}))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.post_processor = processors.TemplateProcessing(single="cc $A", special_tokens=[("cc", 2)])
    return TextTokenizer(library)


def reason_of(text: str | None, max_length: int) -> str | None:
    """Why `strict` refuses a text under this limit."""
    if text is None:
        return "null"
    if "\ud800" in text:
        return "not Unicode: a lone surrogate '\\ud800' at character 0"
    words = text.split()
    if not set(words) <= {"a", "b", "cc"}:
        return "refused by the tokenizer: WordLevel error: Missing [UNK] token from the vocabulary"
    return f"{len(words) + 1} tokens, but max_length is {max_length}" if len(words) >= max_length else None


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["a", "b", "cc", "zebra"]), max_size=5).map(" ".join)
        | st.sampled_from([None, "\ud800", "a b", "a b cc"]),
        max_size=24,
    ),
    chunk=st.integers(1, 9),
    chunk_bytes=st.integers(0, 40),
    policy=st.sampled_from(["quarantine", "zero"]),
)
def test_bad_rows_do_not_affect_good_ones(
    strict: TextTokenizer, texts: list[str | None], chunk: int, chunk_bytes: int, policy: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize, "CHUNK_TEXTS", chunk)
        patch.setattr(tokenize, "CHUNK_BYTES", chunk_bytes)
        tokens = tokenize_texts(texts, strict, TokenizationSettings(max_length=4), bad_rows=policy)
    check_ragged(tokens, len(texts))
    reasons = [reason_of(text, 4) for text in texts]
    assert list(tokens.bad.items()) == [(row, reason) for row, reason in enumerate(reasons) if reason is not None]
    good = zip(texts, reasons, strict=True)
    assert rows(tokens) == [alone(strict, [text or ""])[0] if reason is None else [] for text, reason in good]
    assert tokens.null.tolist() == [reason is not None and reason.startswith(("null", "not U")) for reason in reasons]
    assert not tokens.truncated.any()
    assert not tokens.empty.any()  # a good row has at least its special token


@pytest.mark.parametrize("special", [True, False])
def test_row_of_no_tokens_is_empty_and_a_bad_one_is_not(strict: TextTokenizer, special: bool) -> None:
    tokens = tokenize_texts(
        ["", "zebra", None, "a"], strict, TokenizationSettings(add_special_tokens=special), bad_rows="quarantine"
    )
    assert tokens.empty.tolist() == [not special, False, False, False]
    assert tokens.null.tolist() == [False, False, True, False]
    assert list(tokens.bad) == [1, 2]


@pytest.mark.usefixtures("_small_chunks")
def test_refused_row_raises_with_its_number(strict: TextTokenizer) -> None:
    with pytest.raises(BadRowsError) as caught:
        tokenize_texts(["a", "b", None, "cc", "a zebra", "b", "zebra"], strict)
    assert str(caught.value) == (
        "1 of the texts cannot be encoded (row 4: refused by the tokenizer: WordLevel error: Missing [UNK] token from"
        " the vocabulary); rows count from 0; fix them, use a tokenizer that has its unknown token, or set"
        " encode.bad_rows to quarantine, which sets such rows aside, or to zero"
    )


def test_library_panic_on_one_text_leaves_the_others() -> None:
    library = Tokenizer(models.WordLevel({"x": 0, "[UNK]": 1}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")  # exponential: the library gives up
    panicking = TextTokenizer(library)
    texts = ["x", "x", "a" * 40 + "b", "x", "y"]
    tokens = tokenize_texts(texts, panicking, bad_rows="zero")
    assert rows(tokens) == [[0], [0], [], [0], [1]]
    assert tokens.bad == {2: "refused by the tokenizer: Onig: Regex search error: retry-limit-in-match over"}
    assert rows(tokenize_texts(texts[:2], panicking)) == [[0], [0]]
    with pytest.raises(TextError, match=r"\(row 2: refused by the tokenizer: Onig"):
        tokenize_texts(texts, panicking)


def test_empty_text_is_not_a_null(wordlevel: TextTokenizer, bos_eos: TextTokenizer) -> None:
    tokens = tokenize_texts(["", None, "the", " "], wordlevel, bad_rows="zero")
    assert tokens.empty.tolist() == [True, False, False, True]
    assert tokens.null.tolist() == [False, True, False, False]
    tokens = tokenize_texts(["", None], bos_eos, bad_rows="zero")
    assert rows(tokens) == [[bos_eos.token_id("[CLS]"), bos_eos.token_id("[SEP]")], []]


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_arrow_texts_equal_python_texts(tokenizer: TextTokenizer, kind: pa.DataType) -> None:
    texts = ["the sea", "", "a\0b", "\U0001f600", "rain rain", "the", "dog"]
    expected = alone(tokenizer, texts)
    array = pa.array(texts).cast(kind)
    assert rows(tokenize_texts(array, tokenizer)) == expected
    assert rows(tokenize_texts(array[2:6], tokenizer)) == expected[2:6]
    chunked = pa.chunked_array([array[:1], array[1:1], array[1:6], array[6:]])
    assert rows(tokenize_texts(chunked, tokenizer)) == expected
    assert rows(tokenize_texts(chunked.slice(1, 5), tokenizer)) == expected[1:6]


KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.none() | st.text(max_size=9) | st.sampled_from(["é" * 7, "\U0001f600" * 4]), max_size=20),
    max_rows=st.integers(1, 6),
    max_bytes=st.integers(0, 40),
    kind=st.sampled_from([None, *KINDS]),
    data=st.data(),
)
def test_split_ranges_are_as_long_as_the_limits_allow(
    texts: list[str | None], max_rows: int, max_bytes: int, kind: pa.DataType | None, data: st.DataObject
) -> None:
    column: Any = texts
    sizes = [len(text or "") for text in texts]
    if kind is not None:
        place = data.draw(st.integers(0, len(texts)))
        array = pa.array(["before", *texts, "after"]).cast(kind)[1:-1]
        column = pa.chunked_array([array[:place], array[place:]]) if data.draw(st.booleans()) else array
        sizes = [len((text or "").encode()) for text in texts]
    ranges = split_texts(column, max_rows, max_bytes)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(len(texts)))
    for start, stop in ranges:
        assert stop == start + 1 or (start < stop <= start + max_rows and sum(sizes[start:stop]) <= max_bytes)
        if stop < len(texts):
            assert stop - start == max_rows or sum(sizes[start : stop + 1]) > max_bytes


def test_split_texts_accepts_what_is_not_unicode() -> None:
    array = arrow_of_bytes(b"the", None, b"\xff\xff", b"x\xed\xa0\x80", b"sea")
    assert split_texts(array, 9, 5) == [(0, 3), (3, 4), (4, 5)]
    assert split_texts(pa.nulls(3), 2, 9) == [(0, 2), (2, 3)]
    assert split_texts(["the", None, b"\xff\xff", 7, "sea"], 9, 5) == [(0, 4), (4, 5)]  # type: ignore[list-item]


@pytest.mark.parametrize("arrow", [True, False])
def test_chunks_of_long_texts_have_fewer_rows(
    wordlevel: TextTokenizer, monkeypatch: pytest.MonkeyPatch, arrow: bool
) -> None:
    texts = ["the sea " * 100, "the", *["sea " * 60] * 7, "moon", "the sea " * 500]
    expected = rows(tokenize_texts(texts, wordlevel))
    monkeypatch.setattr(wordlevel, "words", None)
    calls: list[list[str]] = []
    encode_batch = wordlevel.encode_batch
    monkeypatch.setattr(wordlevel, "encode_batch", lambda texts: calls.append(texts) or encode_batch(texts))
    monkeypatch.setattr(tokenize, "CHUNK_BYTES", 1_000)
    assert rows(tokenize_texts(pa.array(texts) if arrow else texts, wordlevel)) == expected
    assert [len(call) for call in calls] == [2, 4, 4, 1]
    assert [text for call in calls for text in call] == texts


def test_cancelled_tokenizing_ends_at_the_next_chunk(wordlevel: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "CHUNK_TEXTS", 1)
    monkeypatch.setattr(wordlevel, "words", None)
    begun, left, calls = threading.Event(), threading.Event(), []
    encode_batch = wordlevel.encode_batch

    def encode(texts: list[str]) -> Any:
        calls.append(texts)
        if len(calls) == 5:
            begun.set()
            left.wait(timeout=30)
        return encode_batch(texts)

    def items() -> Iterator[RaggedTokens | None]:
        yield None
        yield tokenize_texts(["the sea"] * 1_000, wordlevel)

    monkeypatch.setattr(wordlevel, "encode_batch", encode)
    with prefetch(items()) as made:
        next(made)
        begun.wait(timeout=30)
        threading.Timer(0.3, left.set).start()  # when the block has been left
    assert 5 <= len(calls) < 100
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize(
    "texts", [[], pa.array([], pa.string()), pa.chunked_array([], pa.string())], ids=["list", "array", "chunks"]
)
def test_no_texts_give_no_rows(tokenizer: TextTokenizer, texts: Any) -> None:
    tokens = tokenize_texts(texts, tokenizer, TokenizationSettings(max_length=5))
    check_ragged(tokens, 0)
    input_ids, lengths = tokens.pad_rows(np.empty(0, np.int64), 0)
    assert (input_ids.shape, lengths.shape) == ((0, 0), (0,))


def test_empty_texts_give_empty_rows(wordlevel: TextTokenizer) -> None:
    tokens = tokenize_texts(["", " "], wordlevel, TokenizationSettings(max_length=1, truncate=True))
    check_ragged(tokens, 2)
    assert tokens.empty.all()
    assert tokens.pad_rows(np.array([1, 0]), 0)[0].shape == (2, 0)


def test_ids_of_a_small_vocabulary() -> None:
    library = Tokenizer(models.WordLevel({"[UNK]": 0, "x": 7, "y": 9}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = tokenize_texts(["x y", "", "y z x"], TextTokenizer(library))
    assert tokens.values.tolist() == [7, 9, 9, 0, 7]
    assert tokens.offsets.tolist() == [0, 2, 2, 5]
