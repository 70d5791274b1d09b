"""States that a server keeps from batch to batch, against the same server that keeps none: CPU time per text.

It is measured on the texts of a corpus, which have little in common, and on the same behind a preamble. No text is sent
twice: the first half warms the server up, the second is measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.harness import Result, median, ratios
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.cli.benchmarks.serve import CONNECTIONS, LARGE_REQUEST, embed_requests, serving
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.server.options import ServeOptions
from lengthwise.tokens.tokenizer import TextTokenizer

TEXTS = 40_960
PREAMBLE = (
    "You are given the definition of a word as a dictionary has it. Represent its meaning in such a way that the"
    " definitions of related words come close to each other, and those of words that have nothing to do with each other"
    " do not. Ignore how long it is and how it is written. The definition is:"
)


def measure(shape_name: str, corpus: str, seconds: float, runs: int) -> Result:
    """Measure both precisions on an artifact of this shape."""
    texts, tokenizer = load_corpus(corpus, TEXTS)
    result = Result("states")
    with tempfile.TemporaryDirectory() as name:
        artifact = Path(name) / "artifact"
        build_artifact(SHAPES[shape_name].encoder(tokenizer.vocab_size), tokenizer, artifact)
        rows = [
            [title, *_compare(artifact, some, precision, seconds, runs)]
            for precision in ("fp32", "int8")
            for title, some in (
                (f"{corpus}, {_mean_tokens(tokenizer, texts):.0f} tokens, {precision}", texts),
                (
                    f"behind {_mean_tokens(tokenizer, [PREAMBLE]):.0f} tokens, {precision}",
                    [f"{PREAMBLE} {text}" for text in texts],
                ),
            )
        ]
    title = f"{SHAPES[shape_name]}, engine torch, {LARGE_REQUEST} texts per request, {CONNECTIONS} connections"
    columns = ["texts", "steps saved", "no states kept, µs of CPU per text", "states kept", "times as fast"]
    result.table(title, columns, rows)
    return result


def _compare(artifact: Path, texts: Sequence[str], precision: str, seconds: float, runs: int) -> list[str]:
    """The share of the steps that is saved, the CPU time per text of both sides, and their ratio in each round."""
    found: dict[int, list[float]] = {0: [], ServeOptions.state_cache_bytes: []}
    requests, saved = embed_requests(texts, LARGE_REQUEST), 0.0
    half = len(requests) // 2
    for _ in range(runs):
        for size, taken in found.items():
            options = ["--engine", "torch", "--precision", precision, "--state-cache-bytes", str(size)]
            with serving("ours", artifact, *options) as server:
                server.send(requests[:half], connections=CONNECTIONS, seconds=seconds, repeat=False)
                before = server.cpu_seconds()
                load = server.send(requests[half:], connections=CONNECTIONS, seconds=seconds, repeat=False)
                taken.append((server.cpu_seconds() - before) / load.texts)
                if size:
                    counts = server.info()["state_cache"]
                    saved = counts["saved_steps"] / counts["steps"]
    without, kept = found.values()
    return [
        f"{saved:.1%}",
        f"{1e6 * median(without):.0f}",
        f"{1e6 * median(kept):.0f}",
        ratios(kept, without),
    ]


def _mean_tokens(tokenizer: TextTokenizer, texts: Sequence[str]) -> float:
    return sum(len(each.ids) for each in tokenizer.encode_batch(texts)) / len(texts)
