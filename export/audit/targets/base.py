"""What can be audited: something that maps a batch of texts, or of ids, to vectors.

A batch is a `Case` of validation, whose ids number the target's `Units`. A target of ids decides where the padding is
and what it holds; one that takes texts leaves that to whatever it asks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import LengthwiseError
from lengthwise.export.audit.answers import Precision
from lengthwise.export.audit.claims import Claims, Side
from lengthwise.export.audit.units import Units
from lengthwise.export.validation.cases import Case
from lengthwise.tokens.tokenizer import TextTokenizer


class NotAsked(Exception):
    """A question cannot be put to this target; the message says why."""


class Unanswered(Exception):
    """The target raised on an input, or did not give one vector for each row; the message says what happened."""


class NoAnswer(Unanswered):
    """The target kept silent: a failure of whatever was asked."""


class NoLongerAnswered(Unanswered):
    """The target raised on a batch of a shape that it answered before: a failure of whatever was asked."""


class Tolerances(NamedTuple):
    """How far a vector may be from itself, relative to its largest value.

    Attributes:
        same_shape: in a batch of the same shape, in which only other rows or the padding hold something else. The
            arithmetic of the row is then the same, operation by operation.
        other_shape: in a batch of another shape, where kernels add up in another order.
    """

    same_shape: float
    other_shape: float


# By the precision in which a model computes. Other shapes were measured at up to 3e-6 in float32. A value that rounding
# moves over the border between two steps of a coarser grid moves the vector by about such a step.
TOLERANCES: Mapping[str, Tolerances] = MappingProxyType(
    {
        "float32": Tolerances(1e-6, 1e-4),
        "float16": Tolerances(1e-6, 1e-2),
        "bfloat16": Tolerances(1e-6, 5e-2),
        "int8": Tolerances(1e-6, 2e-2),
    }
)


_LEAST_WORDS, _UNKNOWN_WORD = 4, "qzxkvw"


@dataclass(frozen=True)
class Padding:
    """Where the padding is and what it holds.

    Attributes:
        side: as the tokenizer's files say where it is None.
        random: whether it holds the ids that the case has there, instead of the pad id.
    """

    side: Side | None = None
    random: bool = False


class Target(ABC):
    """A model under audit.

    Attributes:
        name: as the user gave it.
        kind: what it is, in a few words.
        units: what its texts are made of.
        claims: what its files say.
        precision: in which it computes.
        takes_ids: whether padding and ids can be chosen.
        exact: whether batches of one shape are computed by the same operations, whatever they hold.
        concurrent: whether several threads may call it at once.
    """

    kind: str
    units: Units
    claims: Claims = Claims()
    precision: Precision = "float32"
    takes_ids = False
    exact = False
    concurrent = False

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def tolerances(self) -> Tolerances:
        """How far a vector may be from itself. What may batch as it likes has one tolerance."""
        found = TOLERANCES[self.precision]
        return found if self.exact else Tolerances(found.other_shape, found.other_shape)

    @property
    def longest(self) -> int | None:
        """The most units of a row, by the files; None where they do not say."""
        limit = self.claims.max_length
        return None if limit is None else max(1, limit - self.special_tokens)

    @property
    def special_tokens(self) -> int:
        """Tokens that are added to each text."""
        return 0

    @abstractmethod
    def encode(self, case: Case, padding: Padding = Padding()) -> NDArray[np.float32]:
        """float32[batch, dim].

        Raises:
            Unanswered: there is no vector for each row.
            NotAsked: the padding cannot be chosen.
        """

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[texts, dim], of a batch of texts.

        Raises:
            Unanswered: there is no vector for each text.
            NotAsked: there is no tokenizer.
        """

    def with_one_thread(self) -> Target:
        """The same model, computed by one thread.

        Raises:
            NotAsked: its threads cannot be set.
        """
        raise NotAsked("its threads cannot be set from here")

    def describe(self, row: Sequence[int]) -> str:
        """A row of units, as a text if it can be typed, else as ids."""
        return repr(self.units.text(row))

    def environment(self) -> dict[str, str]:
        """Versions of what computes."""
        return {}


class TextTarget(Target):
    """A target that takes texts alone."""

    def keep_known_words(self, most: int) -> None:
        """Keep words that have vectors of their own: others are unknown to a small vocabulary, or stop words.

        Args:
            most: of the first words are tried, and only if too few of them are known, all; the first ones are those
                that lists of stop words have.

        Raises:
            Unanswered: there are no vectors for them.
        """
        for words in (self.units.words[:most], self.units.words):
            known = self._known(words)
            if len(known) >= _LEAST_WORDS:
                self.units = Units(known)
                return

    def _known(self, words: Sequence[str]) -> tuple[str, ...]:
        """Those of some words whose vector neither another one nor a word of no vocabulary has."""
        asked = [*words, _UNKNOWN_WORD]
        found = np.concatenate([self.encode_texts(asked[start : start + 16]) for start in range(0, len(asked), 16)])
        scale = np.maximum(np.abs(found).max(axis=1, keepdims=True), 1e-30)
        apart = (
            np.abs((found / scale)[:, None] - (found / scale)[None]).max(axis=2) > TOLERANCES["bfloat16"].other_shape
        )
        return tuple(word for word, others in zip(words, apart.sum(axis=1)[:-1], strict=True) if others >= len(words))

    def encode(self, case: Case, padding: Padding = Padding()) -> NDArray[np.float32]:
        """As `Target.encode`; a row's padding does not exist."""
        if padding != Padding():
            raise NotAsked("it takes texts, and pads them itself")
        rows = zip(case.input_ids, case.lengths.tolist(), strict=True)
        return self.encode_texts([self.units.text(ids[:length].tolist()) for ids, length in rows])


class IdTarget(Target):
    """A target that takes ids and an attention mask.

    Attributes:
        tokenizer: None where the model's files have none.
    """

    takes_ids = True
    exact = True
    tokenizer: TextTokenizer | None = None
    embedding_rows: int | None = None  # of the table that ids are looked up in, where that is known

    @abstractmethod
    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence] twice to float32[batch, dim].

        Raises:
            Unanswered: there is no vector for each row.
        """

    def embeddings_differ(self, first: int, second: int) -> bool:
        """Whether two ids have other embeddings; False where that cannot be told."""
        return False

    @property
    def affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before and after a text."""
        return ((), ()) if self.tokenizer is None else (self.tokenizer.prefix, self.tokenizer.suffix)

    @property
    def special_tokens(self) -> int:
        """As `Target.special_tokens`."""
        return sum(map(len, self.affixes))

    def encode(self, case: Case, padding: Padding = Padding()) -> NDArray[np.float32]:
        """As `Target.encode`; special tokens are put around each row, and the padding of the case beside it."""
        table = np.array(self.units.ids, np.int64)
        prefix, suffix = self.affixes
        columns = case.input_ids.shape[1]
        rows = [
            [*prefix, *table[ids[:length]].tolist(), *suffix]
            for ids, length in zip(case.input_ids, case.lengths.tolist(), strict=True)
        ]
        around = np.full((len(rows), columns + self.special_tokens), self.claims.pad_id, np.int64)
        if padding.random:
            around[:, :columns], around[:, columns:] = table[case.input_ids[:, ::-1]], table[0]
        return self.run(*pad_rows(rows, around, padding.side or self.claims.side))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `Target.encode_texts`: whole, without truncation, padded to the longest on the usual side."""
        if self.tokenizer is None:
            raise NotAsked("there is no tokenizer.json beside it, so no texts can be given")
        try:
            encoded = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        except LengthwiseError as error:
            raise Unanswered(str(error)) from error
        prefix, suffix = self.affixes
        rows = [[*prefix, *ids, *suffix] for ids in encoded]
        around = np.full((len(rows), max([1, *map(len, rows)])), self.claims.pad_id, np.int64)
        return self.run(*pad_rows(rows, around, self.claims.side))

    def describe(self, row: Sequence[int]) -> str:
        """As `Target.describe`; a text is given only if the tokenizer makes these very ids of it."""
        ids = [] if self.units.ids is None else [self.units.ids[number] for number in row]
        if self.tokenizer is not None and self.tokenizer.encode_batch([self.units.text(row)])[0].ids == ids:
            return super().describe(row)
        return f"ids {ids}"


def pad_rows(
    rows: Sequence[Sequence[int]], around: NDArray[np.int64], side: Side
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ids in a rectangle.

    Args:
        around: int64[batch, sequence], what the padding holds.
        side: of the padding.

    Returns:
        input_ids and attention_mask, int64[batch, sequence].
    """
    input_ids, attention_mask = around.copy(), np.zeros_like(around)
    for number, row in enumerate(rows):
        start = 0 if side == "right" else around.shape[1] - len(row)
        input_ids[number, start : start + len(row)], attention_mask[number, start : start + len(row)] = row, 1
    return input_ids, attention_mask


def check_vectors(found: Any, rows: int) -> NDArray[np.float32]:
    """The vectors of a batch.

    Args:
        found: what a model gave.
        rows: how many it was asked for.

    Raises:
        Unanswered: it is not one vector of numbers for each row, all of one size.
    """
    try:
        values = np.asarray(found)
    except ValueError:  # ragged
        raise Unanswered("it gave vectors of different sizes in one batch") from None
    if values.dtype == object or values.dtype.kind not in "fiub":
        what = "strings" if values.dtype.kind in "US" else "values such as null"
        raise Unanswered(f"it gave {what} instead of numbers")
    if values.ndim != 2 or len(values) != rows or values.shape[1] == 0:
        raise Unanswered(f"it gave an array of shape {list(values.shape)} for {rows} texts, not one vector for each")
    return values.astype(np.float32)
