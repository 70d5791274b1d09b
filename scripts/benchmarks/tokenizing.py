"""Texts to `RaggedTokens`, against the tokenizers library alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa

from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.harness import Result, alternate, median, ratios
from lengthwise.tokens.tokenize import CHUNK_TEXTS, tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer


def measure(corpus: str, rows: int, runs: int) -> Result:
    """Measure `tokenize_texts`, which returns two arrays, and the library, which returns Encoding objects."""
    texts, tokenizer = load_corpus(corpus, rows)
    column = pa.array(texts)
    tokens = len(tokenize_texts(column, tokenizer).values)
    sides: dict[str, Callable[[], object]] = {
        "tokenize_texts, no word met before": partial(_tokenize_first, column, tokenizer),
        "tokenize_texts, all words met before": partial(tokenize_texts, column, tokenizer),
        "tokenize_texts, no words kept": partial(_tokenize_without_words, column, tokenizer),
        f"encode_batch_fast, {CHUNK_TEXTS} texts per call": partial(encode_only, texts, tokenizer),
        "encode_batch_fast, all texts in one call": partial(encode_only, texts, tokenizer, len(texts)),
    }
    seconds = alternate(sides, runs, "tokenize")
    best = min([name for name in sides if name.startswith("encode")], key=lambda name: median(seconds[name]))
    result = Result("tokenize")
    result.table(
        f"{len(texts):,} texts of `{corpus}`, {tokens:,} tokens, {runs} alternating runs",
        ["side", "tokens/s", "ratio to the library's best"],
        [[name, f"{tokens / median(seconds[name]):,.0f}", ratios(seconds[name], seconds[best])] for name in sides],
    )
    return result


def _tokenize_first(texts: pa.Array, tokenizer: TextTokenizer) -> None:
    tokenizer.forget_words()
    tokenize_texts(texts, tokenizer)


def _tokenize_without_words(texts: pa.Array, tokenizer: TextTokenizer) -> None:
    words, tokenizer.words = tokenizer.words, None
    tokenize_texts(texts, tokenizer)
    tokenizer.words = words


def encode_only(texts: Sequence[str], tokenizer: TextTokenizer, chunk: int = CHUNK_TEXTS) -> None:
    """Tokenize with the library alone, `chunk` texts per call."""
    for start in range(0, len(texts), chunk):
        tokenizer.encode_batch(texts[start : start + chunk])
