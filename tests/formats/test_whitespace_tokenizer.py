"""The whitespace tokenizer of sentence-transformers as a tokenizer.json: the same ids for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.errors import TokenizerError
from lengthwise.formats.whitespace_tokenizer import WhitespaceVocabulary, whitespace_tokenizer
from lengthwise.tokens.tokenizer import TextTokenizer

LETTERS = "aAbBİıΣσςß.'!-\u0301"
WORDS = st.text(LETTERS, max_size=4)
KNOWN = st.text(LETTERS, min_size=1, max_size=4)
TEXTS = st.lists(st.text(LETTERS + " \t\x1c\x85\u3000\n\U000f0001\U000f0004", max_size=6), max_size=8).map(" ".join)


def rule(words: list[str], stop_words: set[str], lowercase: bool = False) -> WhitespaceVocabulary:
    return WhitespaceVocabulary(words, stop_words, lowercase=lowercase)


@settings(deadline=None, max_examples=150)
@given(words=st.lists(KNOWN, max_size=12), stop_words=st.sets(WORDS, max_size=4), lowercase=st.booleans(), text=TEXTS)
def test_any_text_has_the_ids_of_the_rule(words: list[str], stop_words: set[str], lowercase: bool, text: str) -> None:
    vocabulary = rule(["PADDING_TOKEN", *words], stop_words, lowercase)
    (encoding,) = whitespace_tokenizer(vocabulary).encode_batch([text])
    assert encoding.ids == vocabulary.encode(text)


def test_ids_are_those_of_the_library(tmp_path: object) -> None:
    module = pytest.importorskip(
        "sentence_transformers.sentence_transformer.modules.tokenizer", reason="sentence-transformers is not installed"
    )
    words = ["PADDING_TOKEN", "apple", "Apple", "u.s.", "U.S.", "US", "the", "tis", "'tis", "é", "no.", "No.", "a_b"]
    stop_words = {"the", "No", "is", "!", "U.S"}
    theirs = module.WhitespaceTokenizer(words, stop_words=stop_words)
    ours = whitespace_tokenizer(rule(words, stop_words))
    decorations = ("{}", "({})", "{}.", "{}!?", "--{}", "x{}", "{} {}")
    texts = [
        change(form.format(word, word))
        for word in (*words, *stop_words)
        for form in decorations
        for change in (str, str.upper, str.title)
    ]
    assert len(texts) == 378
    for text, encoding in zip(texts, ours.encode_batch(texts), strict=True):
        assert encoding.ids == theirs.tokenize(text), text


def test_the_tokenizer_survives_a_file() -> None:
    from tokenizers import Tokenizer

    tokenizer = whitespace_tokenizer(rule(["PAD", "Apple", "apple", "c++", "C++"], {"the"}))
    again = TextTokenizer(Tokenizer.from_str(tokenizer.to_json()))
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == 5
    assert again.encode_batch(["APPLE (Apple) c++, C++ c++! the"])[0].ids == [2, 1, 4]


def test_an_empty_word_is_refused() -> None:
    with pytest.raises(TokenizerError, match="word 1 is empty"):  # its id is that of punctuation alone, in the library
        whitespace_tokenizer(rule(["PAD", "", "cat"], set()))
    assert whitespace_tokenizer(rule(["PAD", "", "cat"], {""})).encode_batch(["-- cat"])[0].ids == [2]


def test_reserved_characters_are_refused() -> None:
    with pytest.raises(TokenizerError, match="holds a character of"):
        whitespace_tokenizer(rule(["a\U000f0010"], set()))
