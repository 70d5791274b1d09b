"""All questions, in the order of the report; they are put in another one, see `run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lengthwise.export.audit.answers import Answer
from lengthwise.export.audit.inquiry import Inquiry
from lengthwise.export.audit.questions.batch import ask_batch_size, ask_mixed_lengths, ask_neighbours, ask_order
from lengthwise.export.audit.questions.claims import ask_length_1, ask_pooling, ask_precision, ask_tokenizer_files
from lengthwise.export.audit.questions.names import (
    AFTER_LONG,
    BATCH_SIZE,
    DISTINCT,
    EDGE_IDS,
    EMPTY,
    EVERY_TOKEN,
    LEFT_PADDING,
    LENGTH_1,
    LONG_TEXTS,
    MIXED_LENGTHS,
    NEIGHBOURS,
    ONE_TOKEN,
    ORDER,
    PADDING_CONTENTS,
    PADDING_WIDTH,
    POOLING,
    PRECISION,
    REPEAT,
    THREADS,
    TOKENIZER_FILES,
)
from lengthwise.export.audit.questions.padding import ask_left_padding, ask_padding_contents, ask_padding_width
from lengthwise.export.audit.questions.runs import ask_after_long, ask_repeat, ask_threads
from lengthwise.export.audit.questions.texts import (
    ask_distinct,
    ask_edge_ids,
    ask_empty,
    ask_every_token,
    ask_long_texts,
    ask_one_token,
)


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        family: its section in the report.
        asks: what it asks, for people.
        ask: puts it.
    """

    family: str
    asks: str
    ask: Callable[[Inquiry], Answer]


_BATCH, _PADDING, _RUNS, _TEXTS, _FILES = "the batch", "the padding", "the run", "the text", "the files"
QUESTIONS: Mapping[str, Question] = MappingProxyType(
    {
        NEIGHBOURS: Question(_BATCH, "Is a vector the same whatever the other texts are?", ask_neighbours),
        MIXED_LENGTHS: Question(_BATCH, "Is it the same alone and beside longer texts?", ask_mixed_lengths),
        BATCH_SIZE: Question(_BATCH, "Is it the same in batches of any size?", ask_batch_size),
        ORDER: Question(_BATCH, "Is it the same at any place of the batch?", ask_order),
        PADDING_WIDTH: Question(_PADDING, "Is it the same at any padded width?", ask_padding_width),
        PADDING_CONTENTS: Question(_PADDING, "Is it the same whatever fills the padding?", ask_padding_contents),
        LEFT_PADDING: Question(_PADDING, "Is it the same with padding on the other side?", ask_left_padding),
        REPEAT: Question(_RUNS, "Does the same call give the same vectors?", ask_repeat),
        AFTER_LONG: Question(_RUNS, "Is it the same after a long text?", ask_after_long),
        THREADS: Question(_RUNS, "Is it the same with any number of threads?", ask_threads),
        DISTINCT: Question(_TEXTS, "Do other texts have other vectors?", ask_distinct),
        EVERY_TOKEN: Question(_TEXTS, "Does each token count?", ask_every_token),
        LONG_TEXTS: Question(_TEXTS, "Is a long text read to its end, or refused?", ask_long_texts),
        EMPTY: Question(_TEXTS, "What becomes of an empty text?", ask_empty),
        ONE_TOKEN: Question(_TEXTS, "What becomes of a text of one token?", ask_one_token),
        EDGE_IDS: Question(_TEXTS, "Are the first and the last ids looked up?", ask_edge_ids),
        LENGTH_1: Question(_FILES, "Have vectors the length 1 that the files claim?", ask_length_1),
        POOLING: Question(_FILES, "Does the graph pool as the files say?", ask_pooling),
        TOKENIZER_FILES: Question(_FILES, "Do saved settings change the ids?", ask_tokenizer_files),
        PRECISION: Question(_FILES, "Are vectors those of the reference in float32?", ask_precision),
    }
)
