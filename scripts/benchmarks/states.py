"""States that a server keeps from batch to batch, against a server that keeps none: CPU time per text.

Both run at once and are asked in turn, first the texts of a corpus, which have little in common, then the same behind a
preamble. No text is sent twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.harness import Result, median, ratios
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.cli.benchmarks.serve import CONNECTIONS, LARGE_REQUEST, Server, embed_requests, serving
from lengthwise.export.artifact.build import build_artifact
from lengthwise.tokens.tokenizer import TextTokenizer

TEXTS = 32_768
PREAMBLE = (
    "You are given the definition of a word as a dictionary has it. Represent its meaning in such a way that the"
    " definitions of related words come close to each other, and those of words that have nothing to do with each other"
    " do not. Ignore how long it is and how it is written. The definition is:"
)


def measure(shape_name: str, corpus: str, seconds: float, runs: int) -> Result:
    """Measure both precisions on an artifact of this shape."""
    texts, tokenizer = load_corpus(corpus, TEXTS)
    behind = [f"{PREAMBLE} {text}" for text in texts]
    length, preamble = _mean_tokens(tokenizer, texts), _mean_tokens(tokenizer, [PREAMBLE])
    titles = {f"{corpus}, {length:.0f} tokens": texts, f"the same behind {preamble:.0f} tokens": behind}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        artifact = Path(name) / "artifact"
        build_artifact(SHAPES[shape_name].encoder(tokenizer.vocab_size), tokenizer, artifact, variants=())
        for precision in ("fp32", "int8"):
            options = ["--engine", "torch", "--precision", precision]
            with (
                serving("ours", artifact, *options, "--state-cache-bytes", "0") as without,
                serving("ours", artifact, *options) as keeping,
            ):
                rows += [
                    [f"{title}, {precision}", *_compare(without, keeping, some, seconds, runs)]
                    for title, some in titles.items()
                ]
    result = Result("states")
    title = f"{SHAPES[shape_name]}, engine torch, {LARGE_REQUEST} texts per request, {CONNECTIONS} connections"
    columns = ["texts", "steps saved", "no states kept, µs of CPU per text", "states kept", "times as fast"]
    result.table(title, columns, rows)
    return result


def _compare(without: Server, keeping: Server, texts: Sequence[str], seconds: float, runs: int) -> list[str]:
    """The share of the steps that is saved, the CPU time per text of both, and their ratio in each round."""
    requests = embed_requests(texts, LARGE_REQUEST)
    size, taken = len(requests) // (runs + 1), dict[Server, list[float]]()
    for start in range(0, size * (runs + 1), size):
        before = keeping.info()["state_cache"]
        for server in (without, keeping):
            began = server.cpu_seconds()
            load = server.send(requests[start : start + size], connections=CONNECTIONS, seconds=seconds, repeat=False)
            taken.setdefault(server, []).append((server.cpu_seconds() - began) / load.texts)
    after = keeping.info()["state_cache"]
    saved = (after["saved_steps"] - before["saved_steps"]) / (after["steps"] - before["steps"])
    slow, fast = taken[without][1:], taken[keeping][1:]  # the first round warms up
    return [f"{saved:.1%}", f"{1e6 * median(slow):.0f}", f"{1e6 * median(fast):.0f}", ratios(fast, slow)]


def _mean_tokens(tokenizer: TextTokenizer, texts: Sequence[str]) -> float:
    return sum(len(each.ids) for each in tokenizer.encode_batch(texts)) / len(texts)
