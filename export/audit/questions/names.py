"""The names of all questions."""

from __future__ import annotations

NEIGHBOURS, MIXED_LENGTHS, BATCH_SIZE, ORDER = "neighbours", "mixed lengths", "batch size", "order"
PADDING_WIDTH, PADDING_CONTENTS, LEFT_PADDING = "padding width", "padding contents", "left padding"
REPEAT, AFTER_LONG, THREADS = "repeat", "after a long text", "threads"
DISTINCT, EVERY_TOKEN, LONG_TEXTS = "distinct", "every token", "long texts"
EMPTY, ONE_TOKEN, EDGE_IDS = "empty text", "one token", "edge ids"
LENGTH_1, POOLING, PRECISION, TOKENIZER_FILES = "length 1", "pooling", "precision", "tokenizer files"

# Those that compare vectors of two calls: where the same call gives other vectors, they can say nothing.
COMPARING = frozenset(
    {NEIGHBOURS, MIXED_LENGTHS, BATCH_SIZE, ORDER, PADDING_WIDTH, PADDING_CONTENTS, LEFT_PADDING}
    | {AFTER_LONG, THREADS, ONE_TOKEN, EMPTY, EVERY_TOKEN, LONG_TEXTS, POOLING, PRECISION}
)
# Those that padding makes fail, whatever reads it.
OF_PADDING = frozenset({MIXED_LENGTHS, PADDING_WIDTH, PADDING_CONTENTS, LEFT_PADDING, ONE_TOKEN, EMPTY})
# Those that other rows make fail.
OF_ROWS = OF_PADDING | {NEIGHBOURS, BATCH_SIZE, ORDER}
