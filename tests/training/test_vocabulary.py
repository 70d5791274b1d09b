"""Cutting a tokenizer's vocabulary: what is kept, its new numbers, and words that lose their token."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.training import TEXTS, token_ids, train
from lengthwise.errors import ConfigError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.training.initialize import count_tokens
from lengthwise.training.vocabulary import cut_vocabulary

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
