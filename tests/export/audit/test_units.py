"""The tokens that audited texts are made of."""

from __future__ import annotations

from helpers.audit_models import with_dropout
from helpers.small_transformer import small_tokenizer
from lengthwise.export.audit.units import id_units, token_units, word_units
from lengthwise.tokens.tokenizer import TextTokenizer


def test_tokens_are_words_that_can_be_typed() -> None:
    tokenizer = TextTokenizer(small_tokenizer())
    units = token_units(tokenizer)
    assert units.words == word_units().words
    row = [3, 0, 7]
    assert tokenizer.encode_batch([units.text(row)])[0].ids == [(units.ids or ())[number] for number in row]


def test_unknown_words_are_left_out() -> None:
    units = token_units(TextTokenizer(small_tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "house"))))
    assert {"the", "cat", "house"} <= set(units.words)
    assert 1 not in (units.ids or ())


def test_letters_serve_where_words_are_no_tokens() -> None:
    units = token_units(TextTokenizer(with_dropout()))
    assert len(units) >= 8
    assert len(set(units.ids or ())) == len(units)


def test_ids_alone_are_of_the_vocabulary() -> None:
    for size in (2, 5, 100, 30_522):
        units = id_units(size)
        assert 0 <= min(units.ids or ()) <= max(units.ids or ()) == size - 1
