"""Words that were met before: their ids are those that the library gives to the whole text."""

from __future__ import annotations

from itertools import chain, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from helpers.tokenizer_parts import MODELS, NORMALIZERS, PRE_TOKENIZERS, assemble
from lengthwise.config import TokenizerTraining
from lengthwise.errors import BadRowsError
from lengthwise.tokens import words
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer
from lengthwise.tokens.words import WordCache

CORPUS = ["the cat sat on the mat, isn't it?", "A dog's 3 bones \u2014 na\u00efve", "it rained on the sea (again)"]
CUT = {"BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Metaspace", "Sequence", "Whitespace", "WhitespaceSplit"}
CONTEXT_FREE = {
    *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Sequence", "StripAccents"),
    None,
}
# Spaces of all kinds, marks that combine with what is before them, characters whose normal form begins with a space
# (U+00A8) or is one (U+3000), that are surrounded by spaces (U+4E2D) or removed (U+200D) by a normalizer, and the
# character that stands for a space in vocabularies.
ODD = [*"\u0301\u00a8\u3000\u00a0\u2028\u200b\u200d\ufeff\u180e\u0085\x1c\x00\t\n\u4e2d\u2581\u0120\u0600\u0130\u03a3'"]
WORDS = [*" ".join(CORPUS).split(), "a", "'s", "[CLS]", "x[PAD]", "", "NEW", "YORK", "yor", "\u017f"]
WORD = st.sampled_from(WORDS) | st.text(st.sampled_from([*ODD, *"at3,"]), max_size=3) | st.text(max_size=4)
SPACE = st.sampled_from([*[" "] * 8, "\n", "\n", "\n\n", "\n ", "  ", "\t", "\r\n", " \n", "\n\n\n", "\x0b", "\u3000"])
TEXT = st.lists(st.tuples(SPACE, WORD), max_size=6).map(lambda parts: "".join(chain.from_iterable(parts)))
TEXTS = st.lists(TEXT | TEXT.map(str.lstrip), min_size=1, max_size=5)


def expected(tokenizer: Tokenizer, text: str) -> bytes:
    return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32).tobytes()


def cached(tokenizer: Tokenizer) -> WordCache:
    cache = WordCache.of(tokenizer)
    assert cache is not None
    return cache


def whole_words(**parts: str | None) -> Tokenizer:
    """With an added token that is found in normal forms, and one that is only found as it is written."""
    tokenizer = assemble(sampled=False, **parts)  # type: ignore[arg-type]
    tokenizer.add_tokens([AddedToken("York", normalized=True, single_word=True), AddedToken("NEW", normalized=False)])
    return tokenizer


@settings(max_examples=400, deadline=None)
@given(
    model=st.sampled_from([*MODELS]),
    normalizer=st.sampled_from(sorted(CONTEXT_FREE - {None})) | st.none(),
    pre_tokenizer=st.sampled_from(sorted(CUT)),
    texts=TEXTS,
)
def test_ids_are_those_of_the_whole_text(
    model: str, normalizer: str | None, pre_tokenizer: str, texts: list[str]
) -> None:
    tokenizer = whole_words(model=model, normalizer=normalizer, pre_tokenizer=pre_tokenizer)
    cache = cached(tokenizer)
    for _ in range(2):  # the second time all words are known
        for text, ids in zip(texts, cache.look_up(texts), strict=True):
            assert ids in (None, expected(tokenizer, text)), text


@pytest.mark.parametrize(
    "training",
    [
        {"model": "byte_bpe"},
        {"model": "byte_bpe", "normalizers": ()},
        {"model": "byte_bpe", "pre_tokenizer": "whitespace_split"},
        {"model": "bpe", "normalizers": ("nfkc", "lowercase")},
        {"model": "wordpiece", "normalizers": ("bert",)},
        {"model": "unigram", "normalizers": ("nfkc",)},
        {"model": "wordlevel", "pre_tokenizer": "bert"},
    ],
    ids=str,
)
@settings(max_examples=100, deadline=None)
@given(texts=TEXTS)
def test_ids_of_trained_tokenizers_are_those_of_the_whole_text(training: dict[str, str], texts: list[str]) -> None:
    trained = train_tokenizer(CORPUS, TokenizerTraining(**{"vocab_size": 330, **training}))  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_str(trained.to_json())
    for text, ids in zip(texts, cached(tokenizer).look_up(texts), strict=True):
        assert ids in (None, expected(tokenizer, text)), text


def test_only_parts_that_treat_words_alike_in_any_text_have_a_cache() -> None:
    for normalizer, pre_tokenizer in product([*NORMALIZERS, None], [*PRE_TOKENIZERS, None]):
        tokenizer = assemble(sampled=False, normalizer=normalizer, pre_tokenizer=pre_tokenizer)
        has_cache = WordCache.of(tokenizer) is not None
        assert has_cache == (normalizer in CONTEXT_FREE and pre_tokenizer in CUT), (normalizer, pre_tokenizer)


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(use_regex=False),
        pre_tokenizers.Metaspace(split=False),
        pre_tokenizers.CharDelimiterSplit("a"),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.WhitespaceSplit()]),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]),
        pre_tokenizers.Sequence([]),
    ],
    ids=str,
)
def test_parts_whose_settings_look_across_spaces_have_no_cache(pre_tokenizer: pre_tokenizers.PreTokenizer) -> None:
    tokenizer = assemble(sampled=False)
    tokenizer.pre_tokenizer = pre_tokenizer
    assert WordCache.of(tokenizer) is None


def test_added_tokens_with_spaces_have_no_cache() -> None:
    tokenizer = assemble(sampled=False, pre_tokenizer="Whitespace")
    assert WordCache.of(tokenizer) is not None
    tokenizer.add_tokens(["New York"])
    assert WordCache.of(tokenizer) is None
    spaced = assemble(sampled=False, pre_tokenizer="Whitespace", normalizer="BertNormalizer")
    spaced.add_tokens([AddedToken("a\u4e2d", normalized=True)])  # "a 中 " in its normal form
    assert WordCache.of(spaced) is None


@pytest.mark.parametrize(("pre_tokenizer", "reads"), [("ByteLevel", 6), ("Metaspace", 6), ("BertPreTokenizer", 4)])
def test_words_are_read_once(pre_tokenizer: str, reads: int) -> None:
    tokenizer = assemble(sampled=False, pre_tokenizer=pre_tokenizer)
    cache = cached(tokenizer)
    texts = ["the cat sat", "the mat", "cat the"]
    assert cache.look_up(texts) == [expected(tokenizer, text) for text in texts]
    assert cache._pieces.missed + cache._words.missed == reads
    assert None not in cache.look_up(["cat the cat", *texts])
    assert cache._pieces.missed + cache._words.missed == reads


@pytest.mark.parametrize(
    ("pre_tokenizer", "plain", "others"),
    [
        ("Whitespace", ["the cat", "", " the", "the\n\n\tcat  \n"], ["the [CLS]", "the " + "a" * 1025, "the\x1ccat"]),
        ("ByteLevel", ["the cat"], ["", "the  cat", "the ", "the\ncat", "the\tcat", "the [CLS]"]),
        (
            "bytes",
            ["the cat", "", "\nthe\n\ncat\n a\n", " the\t \r\n\tcat  a   ", "  the cat"],
            ["the\x0bcat", "the\u3000cat"],
        ),
        ("Metaspace", ["the cat"], ["", "the  cat", " the", "the ", "the\ncat"]),
    ],
)
def test_texts_of_other_pieces_are_left_to_the_library(pre_tokenizer: str, plain: list[str], others: list[str]) -> None:
    tokenizer = assemble(sampled=False, pre_tokenizer=pre_tokenizer.replace("bytes", "ByteLevel"))
    if pre_tokenizer == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    right = [expected(tokenizer, text) for text in plain]
    assert cached(tokenizer).look_up([*plain, *others]) == [*right, *[None] * len(others)]
    texts = [*others, *plain, None]
    tokens = tokenize_texts(texts, TextTokenizer(tokenizer), bad_rows="zero")
    assert [tokens.row(row).tobytes() for row in range(len(texts))] == [
        b"" if text is None else expected(tokenizer, text) for text in texts
    ]


def test_where_all_words_are_new_they_are_looked_up_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_FIRST_CREDIT", 100)
    tokenizer = assemble(sampled=False, pre_tokenizer="Whitespace")
    cache, numbers = cached(tokenizer), iter(range(10_000))
    for _ in range(1_000):
        cache.look_up([" ".join(f"a{next(numbers)}" for _ in range(8))])
    assert 60 <= cache._words.missed <= 60 + 1_000
    for _ in range(1_000):
        cache.look_up(["the cat sat"])
    assert cache.look_up(["the cat sat"]) == [expected(tokenizer, "the cat sat")]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_ENTRIES", 50)
    tokenizer = assemble(sampled=False, pre_tokenizer="Whitespace")
    cache = cached(tokenizer)
    for number in range(100):
        text = f"the a{number} b{number}"
        assert cache.look_up([text]) == [expected(tokenizer, text)]
        assert max(len(cache._pieces), len(cache._words)) <= 50
    text = " ".join(f"c{number}" for number in range(200))
    assert cache.look_up([text]) == [expected(tokenizer, text)]
    assert len(cache._pieces) <= 50


def test_long_words_are_read_each_time() -> None:
    tokenizer = assemble(sampled=False, pre_tokenizer="Whitespace")
    cache, text = cached(tokenizer), "the " + "a" * 65
    for _ in range(2):
        assert cache.look_up([text]) == [expected(tokenizer, text)]
    assert cache._words.keys() == {"the"}


def test_words_that_the_library_refuses_are_left_to_it() -> None:
    library = Tokenizer(models.WordLevel({"the": 0, "cat": 1}))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.normalizer = normalizers.Lowercase()
    tokenizer = TextTokenizer(library)
    for _ in range(2):
        assert tokenizer.known_ids(["The dog", "the CAT"]) == [None, expected(library, "the CAT")]
    with pytest.raises(BadRowsError, match="row 1"):
        tokenize_texts(["the cat", "the dog"], tokenizer)
