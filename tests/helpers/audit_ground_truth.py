"""Ground truth for audits: models that are broken in one known way each, and sound ones.

`python -m helpers.audit_ground_truth` prints the table of docs/audit.md: which faults were found, which were named by
their cause, and which sound models were blamed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.audit_models import (
    Made,
    RacyTarget,
    after_vectors,
    batch_statistics,
    by_number_of_rows,
    by_place,
    clipped,
    cut_inputs,
    cut_lengths,
    dropout,
    edited,
    lstm,
    noise,
    plain_function,
    quantized,
    range_by_hand,
    same_for_all,
    stale_weight,
    stateful_function,
    transformer,
    unbiased,
    with_dropout,
    without_special_tokens,
)
from helpers.sabotages import (
    batch_baked_in,
    length_baked_in,
    lengths_ignored,
    lengths_off_by_one,
    pooled_over_padding,
    static_mean_reads_padding,
)
from helpers.small_transformer import (
    VOCABULARY,
    Faults,
    small_transformer,
    write_embedding_model,
)
from lengthwise.export.audit.answers import Audit
from lengthwise.export.audit.ask import audit_target
from lengthwise.export.audit.targets.base import Target
from lengthwise.export.audit.targets.open import OpenOptions, open_target
from lengthwise.export.graphs.fp16 import to_fp16
from lengthwise.export.graphs.int8 import to_int8, to_int8_dynamic
from lengthwise.export.graphs.portable import to_portable
from lengthwise.util.markdown import markdown_table


@dataclass(frozen=True)
class Broken:
    """A model with one fault.

    Attributes:
        name: of the fault.
        base: what was broken: transformer, LSTM or function.
        question: that has to fail.
        cause: words that a cause, or else the answer, has to have.
        make: writes it to a folder.
        reference: whether it is compared with the sound transformer.
    """

    name: str
    base: str
    question: str
    cause: str
    make: Callable[[Path], Made]
    reference: bool = False


@dataclass(frozen=True)
class Sound:
    """A model without a fault."""

    name: str
    make: Callable[[Path], Made]


@dataclass(frozen=True)
class Judged:
    """What an audit found of a model.

    Attributes:
        found: whether the question fails.
        named: whether the cause, or the answer, has the words.
        audit: the audit.
    """

    found: bool
    named: bool
    audit: Audit


_NO_FILES: dict[str, Any] = {"modules": None, "pooling": None}
BROKEN: Sequence[Broken] = (
    Broken("activations quantised per batch", "transformer", "neighbours", "DynamicQuantizeLinear", quantized),
    Broken("a range taken by hand", "transformer", "neighbours", "ReduceMax", transformer(Faults(range_by_hand))),
    Broken(
        "batch statistics",
        "transformer",
        "neighbours",
        "over the rows",
        transformer(Faults(vectors=batch_statistics)),
    ),
    Broken(
        "the number of rows",
        "transformer",
        "batch size",
        "number of rows",
        transformer(Faults(vectors=by_number_of_rows)),
    ),
    Broken("the place in the batch", "transformer", "order", "number of a row", transformer(Faults(vectors=by_place))),
    Broken(
        "attention without a mask",
        "transformer",
        "padding width",
        "attention without a mask",
        transformer(Faults(masked=False)),
    ),
    Broken(
        "attention without a mask (what the padding holds)",
        "transformer",
        "padding contents",
        "attention without a mask",
        transformer(Faults(masked=False)),
    ),
    Broken(
        "a plain mean",
        "transformer",
        "mixed lengths",
        "ReduceMean node over the columns without a mask",
        transformer(Faults(pooling="plain")),
    ),
    Broken(
        "a sum divided by the columns",
        "transformer",
        "padding width",
        "number of columns",
        transformer(Faults(pooling="columns", normalize=False), **_NO_FILES),
    ),
    Broken(
        "left padding claimed, positions by column",
        "transformer",
        "mixed lengths",
        "counted from the first column",
        transformer(tokenizer_config={"pad_token": "[PAD]", "padding_side": "left"}),
    ),
    Broken("a fixed number of rows", "transformer", "batch size", "fixed number of rows", edited(batch_baked_in)),
    Broken("a fixed length", "transformer", "padding width", "fixed number of columns", edited(length_baked_in)),
    Broken("noise", "transformer", "repeat", "RandomNormalLike", transformer(Faults(noise))),
    Broken("dropout", "transformer", "repeat", "RandomUniformLike", transformer(Faults(dropout))),
    Broken("one vector for all texts", "transformer", "distinct", "of the ids", transformer(Faults(ids=same_for_all))),
    Broken("texts are cut", "transformer", "long texts", "constant end", edited(cut_inputs)),
    Broken(
        "an empty text is divided by 0",
        "transformer",
        "empty text",
        "can be 0",
        lambda folder: write_embedding_model(folder, small_transformer(Faults(floor=0)), without_special_tokens()),
    ),
    Broken(
        "one token is divided by 0",
        "transformer",
        "one token",
        "can be 0",
        lambda folder: write_embedding_model(
            folder, small_transformer(Faults(vectors=unbiased)), without_special_tokens()
        ),
    ),
    Broken("rare ids are clipped", "transformer", "edge ids", "Min node of the ids", transformer(Faults(ids=clipped))),
    Broken(
        "a table with too few rows",
        "transformer",
        "edge ids",
        "embedding table",
        transformer(Faults(rows=len(VOCABULARY) - 5)),
    ),
    Broken("length 1 is not kept", "transformer", "length 1", "no node scales", transformer(Faults(normalize=False))),
    Broken("another pooling", "transformer", "pooling", "first column", transformer(Faults(pooling="cls"))),
    Broken(
        "a Dense layer is left out",
        "transformer",
        "pooling",
        "Dense",
        transformer(modules=[{"type": f"models.{kind}", "path": ""} for kind in ("Transformer", "Pooling", "Dense")]),
    ),
    Broken("a stale weight", "transformer", "precision", "other values", edited(stale_weight), reference=True),
    Broken(
        "ids are sampled",
        "transformer",
        "tokenizer files",
        "dropout",
        lambda folder: write_embedding_model(folder, small_transformer(), with_dropout()),
    ),
    Broken(
        "activations quantised per batch", "LSTM", "neighbours", "DynamicQuantizeLSTM", lstm(rewrite=to_int8_dynamic)
    ),
    Broken("lengths are ignored", "LSTM", "padding width", "without sequence_lens", lstm(lengths_ignored)),
    Broken("a mean over the columns", "LSTM", "padding width", "number of columns", lstm(pooled_over_padding)),
    Broken(
        "a mean of embeddings reads padding",
        "LSTM",
        "padding contents",
        "over the columns without a mask",
        lstm(static_mean_reads_padding, static_residual=True),
    ),
    Broken("lengths are one short", "LSTM", "every token", "sequence_lens", lstm(lengths_off_by_one)),
    Broken("lengths are cut", "LSTM", "long texts", "sequence_lens", lstm(cut_lengths)),
    Broken("a fixed number of rows", "LSTM", "batch size", "fixed number of rows", lstm(batch_baked_in)),
    Broken("a fixed length", "LSTM", "padding width", "fixed number of columns", lstm(length_baked_in)),
    Broken("the number of rows", "LSTM", "batch size", "number of rows", lstm(after_vectors(by_number_of_rows))),
    Broken("the place in the batch", "LSTM", "order", "number of a row", lstm(after_vectors(by_place))),
    Broken("noise", "LSTM", "repeat", "RandomNormalLike", lstm(after_vectors(noise))),
    Broken("a state that outlives the call", "function", "after a long text", "after a long text", stateful_function),
    Broken("callers share a buffer", "function", "threads", "threads", lambda folder: RacyTarget),
)
SOUND: Sequence[Sound] = (
    Sound("transformer, mean", transformer()),
    Sound("transformer, first token", transformer(Faults(pooling="cls"), pooling={"pooling_mode_cls_token": True})),
    Sound("transformer, static 8 bits", lambda folder: quantized(folder, static=True)),
    Sound("LSTM, native", lstm()),
    Sound("LSTM, portable", lstm(rewrite=to_portable)),
    Sound("LSTM, fp16", lstm(rewrite=to_fp16)),
    Sound("LSTM, int8 with fixed ranges", lstm(rewrite=to_int8)),
    Sound("LSTM with a static residual", lstm(static_residual=True)),
    Sound("function", lambda folder: plain_function),
)


def open_made(made: Made) -> Target:
    return RacyTarget() if made is RacyTarget else open_target(made, OpenOptions(), quick=True)


def judge(case: Broken, folder: Path, *, quick: bool = True) -> Judged:
    target = open_made(case.make(folder / "model"))
    reference = open_target(transformer()(folder / "reference")) if case.reference else None
    audit = audit_target(target, reference=reference, quick=quick)
    answer = audit.answer(case.question)
    words = " ".join([answer.says, *(f"{cause.what} {cause.where}" for cause in answer.causes)])
    return Judged(answer.verdict == "fail", case.cause in words, audit)


def judge_sound(case: Sound, folder: Path, *, quick: bool = True) -> Audit:
    return audit_target(open_made(case.make(folder)), quick=quick)


def main() -> int:
    """Print the table; the exit code is the number of misses and false alarms."""
    rows, wrong = [], 0
    for case in BROKEN:
        with tempfile.TemporaryDirectory() as scratch:
            judged = judge(case, Path(scratch), quick=False)
        others = [answer.question for answer in judged.audit.failed if answer.question != case.question]
        wrong += not (judged.found and judged.named)
        signs = ("found" if judged.found else "MISSED", "named" if judged.named else "NOT NAMED")
        rows.append((case.base, case.name, case.question, *signs, ", ".join(others)))
    print(markdown_table(("model", "fault", "question", "found", "cause", "fails as well"), rows))  # noqa: T201
    rows = []
    for sound in SOUND:
        with tempfile.TemporaryDirectory() as scratch:
            audit = judge_sound(sound, Path(scratch), quick=False)
        blamed = ", ".join(answer.question for answer in audit.failed)
        largest = max((a.value or 0 for a in audit.answers if a.verdict == "pass" and a.tolerance), default=0)
        wrong += bool(blamed)
        rows.append((sound.name, len(audit.by_verdict("pass")), blamed or "none", f"{largest:.1e}"))
    print()  # noqa: T201
    print(markdown_table(("sound model", "questions passed", "false alarms", "largest difference"), rows))  # noqa: T201
    print(f"\n{len(BROKEN)} faults, {len(SOUND)} sound models, {wrong} misses and false alarms")  # noqa: T201
    return wrong


if __name__ == "__main__":
    sys.exit(main())
