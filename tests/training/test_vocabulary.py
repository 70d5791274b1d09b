"""Cutting a tokenizer's vocabulary: what is kept, its new numbers, and words that lose their token."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.training import TEXTS, token_ids, train
from lengthwise.config import TokenizationSettings
from lengthwise.errors import ConfigError
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.training.vocabulary import add_words, count_tokens, cut_vocabulary

KINDS = {"wordpiece": 150, "unigram": 150, "wordlevel": 60}


def counts(tokenizer: TextTokenizer, texts: list[str] = TEXTS) -> np.ndarray:
    return count_tokens([tokenize_texts(texts, tokenizer)], tokenizer.vocab_size)


def names(tokenizer: TextTokenizer, text: str) -> list[str | None]:
    return [tokenizer.token(number) for number in token_ids(tokenizer, text)]


@pytest.mark.parametrize("model", KINDS)
def test_frequent_tokens_are_kept_and_renumbered_without_gaps(model: str) -> None:
    tokenizer = train(model=model, bos_token="[CLS]", eos_token="[SEP]", special_tokens=["[X]"])
    found = counts(tokenizer)
    cut = cut_vocabulary(tokenizer, found, KINDS[model])
    assert cut.vocab_size == KINDS[model] < tokenizer.vocab_size
    kept = {cut.token(number) for number in range(cut.vocab_size)}
    lost = [number for number in range(tokenizer.vocab_size) if tokenizer.token(number) not in kept]
    pieces = {
        number: str(tokenizer.token(number)) for number in range(len(found)) if number not in tokenizer.special_ids
    }
    long = [number for number, name in pieces.items() if len(name.strip("#▁")) > 1 and name in kept]
    assert max(found[lost]) <= min(found[long])
    special = [[tokenizer.token(number) for number in affix] for affix in (tokenizer.prefix, tokenizer.suffix)]
    assert (
        [[cut.token(number) for number in affix] for affix in (cut.prefix, cut.suffix)]
        == special
        == [["[CLS]"], ["[SEP]"]]
    )
    assert cut.token_id("[X]") in cut.special_ids


@pytest.mark.parametrize("model", KINDS)
def test_text_of_kept_tokens_is_tokenized_as_before(model: str) -> None:
    tokenizer = train(model=model)
    cut = cut_vocabulary(tokenizer, counts(tokenizer), KINDS[model])
    same = [text for text in TEXTS if None not in map(cut.token_id, map(str, names(tokenizer, text)))]
    changed = [text for text in TEXTS if text not in same]
    assert changed
    assert all(names(cut, text) == names(tokenizer, text) for text in same)


@pytest.mark.parametrize("model", ["wordpiece", "unigram"])
def test_word_that_loses_its_token_is_split_and_not_unknown(model: str) -> None:
    tokenizer = train(model=model)
    cut = cut_vocabulary(tokenizer, counts(tokenizer), KINDS[model])
    for text in TEXTS[:100]:
        if "[UNK]" not in names(tokenizer, text):
            assert "[UNK]" not in names(cut, text)


def test_bpe_and_too_small_sizes_are_refused() -> None:
    tokenizer = train(model="byte_bpe")
    with pytest.raises(ConfigError, match=r"vocabulary is 100, but the vocabulary of a BPE tokenizer cannot be cut"):
        cut_vocabulary(tokenizer, counts(tokenizer), 100)
    tokenizer = train(model="wordpiece")
    with pytest.raises(ConfigError, match=r"vocabulary is 5, but special tokens and single characters are already \d+"):
        cut_vocabulary(tokenizer, counts(tokenizer), 5)


def test_post_processor_of_bert_is_renumbered() -> None:
    tree = json.loads(train(model="wordpiece", special_tokens=["[CLS]", "[SEP]"]).to_json())
    ids = {token["content"]: token["id"] for token in tree["added_tokens"]}
    tree["post_processor"] = {
        "type": "BertProcessing",
        "sep": ["[SEP]", ids["[SEP]"]],
        "cls": ["[CLS]", ids["[CLS]"]],
    }
    from tokenizers import Tokenizer

    tokenizer = TextTokenizer(Tokenizer.from_str(json.dumps(tree)))
    cut = cut_vocabulary(tokenizer, counts(tokenizer), 150)
    assert [cut.token(number) for number in (*cut.prefix, *cut.suffix)] == ["[CLS]", "[SEP]"]


def plain(texts: list[str], tokenizer: TextTokenizer) -> RaggedTokens:
    return tokenize_texts(texts, tokenizer, TokenizationSettings(add_special_tokens=False))


def test_words_that_save_most_tokens_are_added() -> None:
    tokenizer = train(model="wordpiece", vocab_size=60)
    texts = ["badage badage fedora", "badage b4dage", "fedora fedora fedora kilo", "kilo kilo"]
    pieces = {word: len(token_ids(tokenizer, word)) for word in ("badage", "fedora", "kilo")}
    assert all(count > 1 for count in pieces.values())
    occurs = {"badage": 3, "fedora": 4, "kilo": 3}
    saved = sorted(occurs, key=lambda word: -occurs[word] * (pieces[word] - 1))
    for number in range(4):
        grown, _ = add_words(tokenizer, [plain(texts[:2], tokenizer), plain(texts[2:], tokenizer)], number)
        added = [grown.token(each) for each in range(tokenizer.vocab_size, grown.vocab_size)]
        assert added == saved[:number]
        assert all(len(token_ids(grown, word)) == 1 for word in added if word)


def test_counts_are_those_of_the_new_tokens() -> None:
    tokenizer = train(model="wordpiece", vocab_size=60)
    grown, found = add_words(tokenizer, [plain(TEXTS, tokenizer)], 30)
    assert grown.vocab_size == tokenizer.vocab_size + 30
    # a word may begin with another one that is new, and is then not split as before
    again = count_tokens([plain(TEXTS, grown)], grown.vocab_size)
    assert (found[tokenizer.vocab_size :] <= again[tokenizer.vocab_size :]).all()
    assert (found >= 0).all()
    assert found.sum() <= count_tokens([plain(TEXTS, tokenizer)], tokenizer.vocab_size).sum() - 30


def test_text_without_a_new_word_is_tokenized_as_before() -> None:
    tokenizer = train(model="wordpiece", vocab_size=60)
    grown, _ = add_words(tokenizer, [plain(["badage fedora"], tokenizer)], 2)
    for text in ("kilo", "bad age", "xbadage"):
        assert names(grown, text) == names(tokenizer, text)
    assert names(grown, "badages")[0] == "badage"


def test_words_of_unknown_characters_are_not_added() -> None:
    tokenizer = train(model="wordpiece", vocab_size=60)
    grown, _ = add_words(tokenizer, [plain(["漢字 漢字 漢字 2024 2024 badage"], tokenizer)], 9)
    assert [grown.token(each) for each in range(tokenizer.vocab_size, grown.vocab_size)] == ["badage"]


@pytest.mark.parametrize("model", ["unigram", "byte_bpe"])
def test_words_are_added_to_wordpiece_alone(model: str) -> None:
    tokenizer = train(model=model)
    with pytest.raises(ConfigError, match=r"train\.init\.words is 7, but words can be added to a WordPiece tokenizer"):
        add_words(tokenizer, [plain(TEXTS, tokenizer)], 7)
