"""The LSTM alone, against PyTorch's fused kernel at equal lengths; and the time per LSTM step."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lengthwise.batching.plan import plan_batches, plan_in_order, report_plan
from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.harness import Result, alternate, median, ratios
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.cli.benchmarks.products import PRODUCT_ROWS, parallel_rate, recurrent_products
from lengthwise.config import Precision
from lengthwise.encoder.engine import Engine, encode_tokens
from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.engine import OnnxEngine
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.compat import cpu_has_bf16

LIMIT_ROWS = (32, 64, 128, 256, 512)
LIMIT_TOKENS = 50_000  # per run of the dense and the packed LSTM
STEP_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
STEP_TIMES, STEP_REPEATS = 12, 9


def measure(shape_name: str, corpora: tuple[str, ...], rows: int, runs: int) -> Result:
    """Measure rates on real lengths, then the time per step by the rows of a batch."""
    shape = SHAPES[shape_name]
    precisions: list[Precision] = ["fp32", "int8", "bf16"] if cpu_has_bf16() else ["fp32", "int8"]
    result = Result("kernel")
    table: list[list[str]] = []
    rates: dict[Precision, float] = {}
    for corpus in corpora:
        texts, tokenizer = load_corpus(corpus, rows)
        encoder = shape.encoder(tokenizer.vocab_size)
        tokens = tokenize_texts(texts, tokenizer)
        for precision in precisions:
            rate, cells = _compare_with_limit(encoder, tokens, precision, runs)
            rates[precision] = rate
            table.append([corpus, precision, *cells])
    result.table(
        f"{shape}, ids to vectors. The limit is one dense nn.LSTM on rows of equal length, at its best batch size"
        " (in float32 beside int8)",
        [
            "corpus",
            "precision",
            "tokens",
            "ours, tokens/s",
            "limit, tokens/s",
            "ours / limit",
            "packed in dataset order / limit",
            "padding computed",
            "padding in dataset order",
        ],
        table,
    )
    _products(result, encoder, rates)
    _steps(result, encoder, tokenizer)
    return result


def _products(result: Result, encoder: PackedEncoder, rates: Mapping[Precision, float]) -> None:
    """Compare the rates of the last corpus with what the recurrent products alone would allow."""
    config, workers = encoder.config, torch.get_num_threads()
    operations = 2 * 4 * config.hidden_size * config.hidden_size * config.directions  # per token
    rows = []
    for precision, ours in rates.items():
        for name, product in recurrent_products(config.hidden_size, precision).items():
            limit = parallel_rate(product, workers) / operations
            per_core = f"{limit * operations / workers / 1e9:,.0f}"
            rows.append([precision, name, per_core, f"{limit:,.0f}", f"{ours:,.0f}", f"{ours / limit:.2f}"])
    result.table(
        f"Recurrent products alone, {PRODUCT_ROWS} rows, {workers} threads with a product each",
        ["precision", "product", "GFLOP/s per core", "limit, tokens/s", "ours, tokens/s", "share of the limit"],
        rows,
    )


def _compare_with_limit(
    encoder: PackedEncoder, tokens: RaggedTokens, precision: Precision, runs: int
) -> tuple[float, list[str]]:
    """Our tokens per second on one corpus, and the table's cells: rates, their ratios, padding."""
    engine, lstm = TorchEngine(encoder, precision=precision), copy.deepcopy(encoder.lstm)
    lstm.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    lengths = tokens.lengths
    length = max(1, round(float(lengths.mean())))
    some = np.cumsum(lengths).searchsorted(LIMIT_TOKENS) + 1
    in_order = [_embedded(lstm, *tokens.pad_rows(rows, 0)) for rows in plan_in_order(lengths[:some])]
    sides: dict[str, Callable[[], object]] = {
        "ours": partial(encode_tokens, tokens, engine),
        "packed": partial(_packed, lstm, in_order),
        **{str(batch): partial(_dense, lstm, batch, length) for batch in LIMIT_ROWS},
    }
    read = {
        "ours": int(lengths[tokens.distinct_rows()[0]].sum()),
        "packed": int(lengths[:some].sum()),
        **{str(batch): batch * length * _times(batch, length) for batch in LIMIT_ROWS},
    }
    seconds = alternate(sides, runs, f"kernel {precision}")
    each = {name: [second / read[name] for second in of_side] for name, of_side in seconds.items()}
    best = min(map(str, LIMIT_ROWS), key=lambda name: median(each[name]))
    costs = engine.costs
    return 1 / median(each["ours"]), [
        f"{len(tokens.values):,}",
        f"{1 / median(each['ours']):,.0f}",
        f"{1 / median(each[best]):,.0f} (batch {best})",
        ratios(each["ours"], each[best]),
        ratios(each["packed"], each[best]),
        f"{report_plan(lengths, plan_batches(lengths, costs), costs).padding:.2%}",
        f"{report_plan(lengths, plan_in_order(lengths), costs.padded()).padding:.1%}",
    ]


def _times(batch: int, length: int) -> int:
    return max(1, round(LIMIT_TOKENS / (batch * length)))


def _dense(lstm: torch.nn.LSTM, batch: int, length: int) -> None:
    x = torch.randn(batch, length, lstm.input_size, dtype=next(lstm.parameters()).dtype)
    with torch.inference_mode():
        for _ in range(_times(batch, length)):
            lstm(x)


def _embedded(lstm: torch.nn.LSTM, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> PackedSequence:
    x = torch.randn(*ids.shape, lstm.input_size, dtype=next(lstm.parameters()).dtype)
    return pack_padded_sequence(x, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False)


def _packed(lstm: torch.nn.LSTM, batches: list[PackedSequence]) -> None:
    with torch.inference_mode():
        for batch in batches:
            lstm(batch)


def _steps(result: Result, encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    """Measure microseconds per step by the rows of a batch, on one thread, and fit a line."""
    with tempfile.TemporaryDirectory() as scratch:
        onnx = OnnxEngine(build_artifact(encoder, tokenizer, Path(scratch) / "artifact", variants=()))
    engines: dict[str, Engine] = {
        "step-wise": TorchEngine(encoder),
        "step-wise, int8": TorchEngine(encoder, precision="int8"),
        "onnxruntime": onnx,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    table = []
    for name, engine in engines.items():
        times = {rows: _seconds_per_step(engine, rows) for rows in STEP_ROWS}
        per_row, fixed = np.polyfit(list(times), list(times.values()), 1, w=1 / np.array(list(times.values())))
        table.append(
            [name, *(f"{1e6 * seconds:.0f}" for seconds in times.values()), f"{fixed / per_row:.1f}", engine.costs.step]
        )
    torch.set_num_threads(threads)
    result.table(
        "Time per step in µs by the rows of a batch, one thread; and its fixed part in rows",
        ["engine", *(f"{rows} rows" for rows in STEP_ROWS), "fixed / row", "`BatchCosts.step`"],
        table,
    )


def _seconds_per_step(engine: Engine, rows: int) -> float:
    ids = np.random.default_rng(0).integers(engine.config.vocab_size, size=(rows, STEP_TIMES))
    lengths = np.full(rows, STEP_TIMES, np.int64)
    seconds = []
    for _ in range(STEP_REPEATS):
        began = time.perf_counter()
        engine.encode_batch(ids, lengths)
        seconds.append((time.perf_counter() - began) / STEP_TIMES)
    return median(seconds)
