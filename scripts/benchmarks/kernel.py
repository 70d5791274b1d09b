"""The LSTM alone: against the limit of PyTorch's fused kernel, and what a time step costs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.corpora import benchmark_tokenizer, load_corpus
from benchmarks.harness import Result, in_turn, median, ratios
from benchmarks.models import SHAPES
from export.build import build_artifact
from export.engine import OnnxEngine
from pipeline.batching import PADDED, STEPWISE, plan_batches, plan_in_order, report_plan
from pipeline.encode import Engine, encode_tokens
from pipeline.encoder import PackedEncoder
from pipeline.tokenizer import TextTokenizer
from pipeline.tokens import tokenize_texts
from pipeline.torch_engine import TorchEngine

LIMIT_ROWS = (32, 64, 128, 256, 512)
STEP_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
STEP_TIMES, STEP_REPEATS = 12, 9


def measure(shape_name: str, corpora: tuple[str, ...], rows: int, runs: int, folder: Path) -> Result:
    """Rates on real lengths, then the cost of a step by its rows."""
    shape = SHAPES[shape_name]
    tokenizer = benchmark_tokenizer(folder)
    encoder = shape.encoder(tokenizer.vocab_size)
    engines = {"fp32": TorchEngine(encoder)}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        engines["bf16"] = TorchEngine(encoder, precision="bf16")
    result = Result("kernel")
    table = []
    for corpus in corpora:
        tokens = tokenize_texts(load_corpus(corpus, rows), tokenizer)
        lengths = tokens.lengths
        plan = report_plan(lengths, plan_batches(lengths))
        in_order = report_plan(lengths, plan_in_order(lengths), PADDED)
        sides: dict[str, Callable[[], object]] = {
            f"ours {name}": partial(encode_tokens, tokens, engine) for name, engine in engines.items()
        }
        length = max(1, round(float(lengths.mean())))
        for name in engines:
            dtype = torch.float32 if name == "fp32" else torch.bfloat16
            for batch in LIMIT_ROWS:
                sides[f"limit {name} {batch}"] = partial(_dense, encoder, dtype, batch, length, len(tokens.values))
        seconds = in_turn(sides, runs, f"kernel {shape} {corpus}")
        for name in engines:
            best = min(LIMIT_ROWS, key=lambda batch: median(seconds[f"limit {name} {batch}"]))
            ours, limit = seconds[f"ours {name}"], seconds[f"limit {name} {best}"]
            rates = [f"{len(tokens.values) / median(side):,.0f}" for side in (ours, limit)]
            table.append(
                [
                    corpus,
                    name,
                    f"{len(tokens.values):,}",
                    rates[0],
                    f"{rates[1]} (batch {best})",
                    ratios(ours, limit),
                    f"{plan.padding:.2%}",
                    f"{in_order.padding:.1%}",
                ]
            )
    result.table(
        f"{shape}: ids to vectors, against one dense nn.LSTM on as many tokens of one length, at its best batch size",
        ["corpus", "precision", "tokens", "ours, tokens/s", "limit", "ours / limit", "padding", "padding unplanned"],
        table,
    )
    _steps(result, encoder, tokenizer, folder)
    return result


def _dense(encoder: PackedEncoder, dtype: torch.dtype, batch: int, length: int, tokens: int) -> None:
    lstm = copy.deepcopy(encoder.lstm).to(dtype)
    x = torch.randn(batch, length, encoder.config.embedding_dim, dtype=dtype)
    with torch.inference_mode():
        for _ in range(max(1, round(tokens / (batch * length)))):
            lstm(x)


def _steps(result: Result, encoder: PackedEncoder, tokenizer: TextTokenizer, folder: Path) -> None:
    """Microseconds of a step by the rows in it, on one thread, and the line through them."""
    artifact = build_artifact(encoder, tokenizer, folder / "artifact")
    engines: dict[str, Engine] = {"step-wise": TorchEngine(encoder, workers=1), "onnxruntime": OnnxEngine(artifact)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    table = []
    for name, engine in engines.items():
        times = {rows: _seconds_a_step(engine, rows) for rows in STEP_ROWS}
        per_row, fixed = np.polyfit(list(times), list(times.values()), 1, w=1 / np.array(list(times.values())))
        costs = STEPWISE if name == "step-wise" else PADDED
        table.append(
            [name, *(f"{1e6 * seconds:.0f}" for seconds in times.values()), f"{fixed / per_row:.1f}", costs.step]
        )
    torch.set_num_threads(threads)
    result.table(
        "A step's time in µs by the rows in it, one thread; and the rows that its fixed part is worth",
        ["engine", *(f"{rows} rows" for rows in STEP_ROWS), "fixed / row", "`BatchCosts.step`"],
        table,
    )


def _seconds_a_step(engine: Engine, rows: int) -> float:
    ids = np.random.default_rng(0).integers(engine.config.vocab_size, size=(rows, STEP_TIMES))
    lengths = np.full(rows, STEP_TIMES, np.int64)
    seconds = []
    for _ in range(STEP_REPEATS):
        began = time.perf_counter()
        engine.encode_batch(ids, lengths)
        seconds.append((time.perf_counter() - began) / STEP_TIMES)
    return median(seconds)
