"""Training: each algorithm trains, and repeats itself where that is promised."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from helpers.training import TEXTS, library, token_ids, train
from lengthwise.config import Normalizer, PreTokenizer, TokenizerModel, TokenizerTraining
from lengthwise.errors import TokenizerError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer

MODELS = get_args(TokenizerModel)
REPEATABLE = ("bpe", "byte_bpe", "wordlevel", "char")


@pytest.fixture(scope="module")
def byte_bpe() -> Tokenizer:
    return library(train(model="byte_bpe", normalizers=()))


@pytest.mark.parametrize("model", MODELS)
def test_special_tokens_have_the_first_ids(model: str) -> None:
    tokenizer = train(model=model, bos_token="<s>", eos_token="</s>", special_tokens=("[MASK]",))
    assert [tokenizer.token_id(t) for t in ("[PAD]", "[UNK]", "<s>", "</s>", "[MASK]")] == [0, 1, 2, 3, 4]
    assert (tokenizer.token(0), tokenizer.token(1)) == ("[PAD]", "[UNK]")
    assert (tokenizer.prefix, tokenizer.suffix) == ((2,), (3,))
    assert 20 < tokenizer.vocab_size <= 400
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    assert all(encoded)
    assert max(map(max, encoded)) < tokenizer.vocab_size
    assert library(tokenizer).encode(TEXTS[0]).ids == [2, *encoded[0], 3]
    assert sum(token == 0 for row in encoded for token in row) == 0


@pytest.mark.parametrize("model", [model for model in MODELS if model != "byte_bpe"])
def test_character_outside_the_vocabulary_is_unknown(model: str) -> None:
    assert 1 in token_ids(train(model=model), "語")


@pytest.mark.parametrize("model", REPEATABLE)
def test_training_twice_gives_the_same_tokenizer(model: str) -> None:
    assert len({train(model=model, vocab_size=600).fingerprint for _ in range(3)}) == 1


@pytest.mark.parametrize("model", ["wordpiece", "unigram"])
def test_training_twice_gives_equal_vocabulary_sizes(model: str) -> None:
    """wordpiece and unigram are not repeatable (see tokens/training.py); sizes and letters are."""
    first, second = (train(model=model) for _ in range(2))
    assert first.vocab_size == second.vocab_size
    letters = {token for token in map(first.token, range(first.vocab_size)) if token and len(token) == 1}
    assert all(second.token_id(letter) is not None for letter in letters)
    assert set("bdfgklmnprstvz") <= letters


@pytest.mark.parametrize(
    ("normalizer", "text", "normal"),
    [
        ("nfc", "e\u0301", "\u00e9"),
        ("nfd", "\u00e9", "e\u0301"),
        ("nfkc", "\ufb01", "fi"),
        ("nfkd", "\ufb01\u00e9", "fie\u0301"),
        ("lowercase", "ABC", "abc"),
        ("strip", "  abc \n", "abc"),
        ("strip_accents", "\u00e9\u00fc", "eu"),
        ("bert", "A\tB\u00e9", "a be"),
    ],
)
def test_each_normalizer(normalizer: Normalizer, text: str, normal: str) -> None:
    everything = text + normal + " \n"
    tokenizer = train([everything], model="char", min_frequency=1, normalizers=(normalizer,))
    assert [tokenizer.token(token) for token in token_ids(tokenizer, text)] == list(normal)


def test_normalizers_are_applied_in_order() -> None:
    tokenizer = train(["fi FI \ufb01"], model="wordlevel", min_frequency=1, normalizers=("nfkc", "lowercase"))
    assert token_ids(tokenizer, "\ufb01 FI fi") == [2, 2, 2]
    assert tokenizer.vocab_size == 3


@pytest.mark.parametrize(
    ("pre_tokenizer", "words"),
    [
        ("whitespace", ["it", "'", "s", "no_1", "..."]),
        ("whitespace_split", ["it's", "no_1..."]),
        ("bert", ["it", "'", "s", "no", "_", "1", ".", ".", "."]),
        ("punctuation", ["it", "'", "s no", "_", "1", ".", ".", "."]),
        ("digits", ["it's no_", "1", "..."]),
        ("byte_level", ["it", "'s", "Ġno", "_", "1", "..."]),
        ("metaspace", ["▁it's", "▁no_1..."]),
    ],
)
def test_each_pre_tokenizer(pre_tokenizer: PreTokenizer, words: list[str]) -> None:
    text = "it's no_1..."
    tokenizer = train([text], model="wordlevel", min_frequency=1, normalizers=(), pre_tokenizer=pre_tokenizer)
    assert [tokenizer.token(token) for token in token_ids(tokenizer, text)] == words


@settings(max_examples=60, deadline=None)
@given(text=st.text() | st.text(alphabet="ab é\n\t\0\u3000\U0001f600'"))
def test_byte_bpe_is_lossless(byte_bpe: Tokenizer, text: str) -> None:
    encoded = byte_bpe.encode(text, add_special_tokens=False)
    assert byte_bpe.decode(encoded.ids, skip_special_tokens=False) == text


def test_byte_bpe_is_lossless_behind_another_pre_tokenizer() -> None:
    tokenizer = library(train(model="byte_bpe", normalizers=(), pre_tokenizer="punctuation"))
    text = "zzz 語, \U0001f600!"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@example(text="a\n\n\r\n  b")
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab \n\r\t\u0301é\U0001f600"))
def test_char_has_an_id_per_character(char: TextTokenizer, text: str) -> None:
    assert [char.token(token) for token in token_ids(char, text)] == list(text)


@pytest.fixture(scope="module")
def char() -> TextTokenizer:
    return train(["ab \n\r\t\u0301é\U0001f600"], model="char", min_frequency=1, normalizers=())


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
@pytest.mark.parametrize("model", MODELS)
def test_empty_corpus_is_refused(model: str, texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="every training text is empty"):
        train(texts, model=model)


def test_corpus_without_frequent_tokens_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"no token is seen 2 times \(tokenizer.training.min_frequency\)"):
        train(["one two three"], model="wordlevel")


def test_leading_empty_texts_do_not_change_the_tokenizer() -> None:
    assert train(["", *TEXTS], model="bpe").fingerprint == train(TEXTS, model="bpe").fingerprint
    assert train(iter(TEXTS), model="bpe").fingerprint == train(TEXTS, model="bpe").fingerprint


def test_corpus_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(TokenizerError, match="not Unicode"):
        train(["fine", "\ud800"], model="bpe")


def test_error_of_the_corpus_is_raised_as_it_is() -> None:
    def texts() -> Any:
        yield "fine"
        raise KeyError("the corpus's own")

    with pytest.raises(KeyError, match="the corpus's own"):
        train_tokenizer(texts(), TokenizerTraining(model="bpe"))


@pytest.mark.parametrize("model", ["wordpiece", "bpe", "byte_bpe", "unigram"])
def test_vocab_size_below_the_number_of_characters_is_refused(model: str) -> None:
    with pytest.raises(TokenizerError, match=r"vocab_size (is )?5"):
        train(model=model, vocab_size=5)


@pytest.mark.parametrize(
    "changes", [{"unk_token": "[PAD]"}, {"eos_token": "[UNK]"}, {"special_tokens": ("[X]", "[X]")}], ids=str
)
def test_special_token_named_twice_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match="names a special token twice") as caught:
        train(**changes)
    assert "[PAD]" in str(caught.value)
