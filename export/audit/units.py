"""The tokens that audited texts are made of: short words that a person can read and type.

A `validation.cases.Case` holds ids of a vocabulary. Here that vocabulary is a list of units: ids of the model's
tokenizer that stand for a whole word, or words, where only texts can be sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lengthwise.tokens.tokenizer import TextTokenizer

_FREQUENT = (
    "the of and to in is was for on with as by at from it that this are be or an he his not have had they you were her"
    " all she there would their we him been has when who will more no if out so said what up its about into than them"
    " can only other new some could time these two may then do first any my now such like our over man me even most"
    " made after also did many before must through back years where much your way well down should because each just"
    " those people too how little state good very make world still own see men work long get here between both life"
    " being under never day same another know while last might us great old year off come since against go came right"
    " used take three house cat rain boat moon cup blue green water night city river stone paper garden music"
)
_WORDS = tuple(_FREQUENT.split())
_LEAST, _MOST, _SAMPLED = 24, 200, 64
_REPEATED = 3  # an id that stands for so many of the words is the one of unknown words


@dataclass(frozen=True)
class Units:
    """What texts are made of.

    Attributes:
        ids: the tokenizer's ids; None where the units are words.
        words: what each stands for.
    """

    words: tuple[str, ...]
    ids: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.words)

    def text(self, row: Sequence[int]) -> str:
        """The text of a row of unit numbers."""
        return " ".join(self.words[number] for number in row)


def word_units() -> Units:
    """Words, for a model that takes texts alone."""
    return Units(_WORDS)


def token_units(tokenizer: TextTokenizer) -> Units:
    """Tokens that stand for one word each; where there are few, tokens of any kind."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(_WORDS)]
    counts = Counter(ids[0] for ids in encoded if len(ids) == 1)
    left_out = tokenizer.special_ids | {token for token, count in counts.items() if count >= _REPEATED}
    pairs = zip(_WORDS, encoded, strict=True)
    found = {ids[0]: word for word, ids in pairs if len(ids) == 1 and ids[0] not in left_out}
    if len(found) < _LEAST:  # characters, another language, or a small vocabulary
        sampled = np.unique(np.linspace(0, tokenizer.vocab_size - 1, _SAMPLED).astype(int)).tolist()
        for token in (*(token for ids in encoded for token in ids), *sampled):
            word = tokenizer.token(token)
            if token not in left_out and word and len(found) < _MOST:
                found.setdefault(token, word.strip("#Ġ▁ ") or word)
    return Units(tuple(found.values()), tuple(found))


def id_units(vocab_size: int) -> Units:
    """Ids alone, where there is no tokenizer; the first ones, which are often special, are left out."""
    first = min(vocab_size - 1, max(5, vocab_size // 10))
    ids = np.unique(np.linspace(first, vocab_size - 1, min(_MOST, vocab_size)).astype(int)).tolist()
    return Units(tuple(f"[{number}]" for number in ids), tuple(ids))
