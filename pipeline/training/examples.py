"""What is learned from: the rows of a source as ids and targets, and which of them are held out.

- Texts are tokenized once, for all epochs. Rows without a token, a target or a partner are left out and counted.
- Rows are held out by a hash of their first text, so that two rows of the same text are never on both sides. Texts that
  occur once are taken first: a text that half of the rows have would take them all.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lengthwise.config import TokenizationSettings
from lengthwise.data.dataset import Source, open_dataset
from lengthwise.dataset_config import DatasetSettings
from lengthwise.errors import ColumnError, DatasetError
from lengthwise.tokens.ragged import RaggedTokens, concatenate_tokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.train_config import SourceSettings
from lengthwise.training.cache import text_keys
from lengthwise.training.progress import Bars

log = logging.getLogger(__name__)

Targets = Callable[[NDArray[np.int64]], NDArray[Any]]  # of rows
_LARGEST_HELD_OUT = 10  # at most every tenth row
_TOKENIZED_AT_ONCE = 16_384


@dataclass(frozen=True, eq=False)
class Rows:
    """The usable rows of a source.

    Attributes:
        name: the source's number and kind, for messages and logs.
        settings: the source's.
        texts: the columns of texts, each [rows]; of pairs the anchors, the positives, then negatives ("" where there
            is none).
        column: vectors float32[rows, dim]; classes, or the kinds of pairs, int64[rows]; or None.
        classes: the names of the classes.
        skipped: how many rows were left out so far.
    """

    name: str
    settings: SourceSettings
    texts: tuple[list[str], ...]
    column: NDArray[Any] | None = None
    classes: tuple[str, ...] = ()
    skipped: int = 0


@dataclass(frozen=True, eq=False)
class Examples:
    """The rows of a source as ids, with what is learned of them.

    Attributes:
        name: the source's number and kind, for messages and logs.
        settings: the source's.
        sides: the ids of each column of texts; a row of no ids is a negative that there is not.
        targets: gives the targets of rows: float32[rows, dim], int64[rows] of classes; None for pairs.
        classes: the names of the classes.
        train: int64, the rows to learn from.
        held_out: int64, the rows of the validation.
        skipped: how many rows were left out.
        kinds: int64[rows], of pairs, those of one kind are compared with each other; any of them if None.
    """

    name: str
    settings: SourceSettings
    sides: tuple[RaggedTokens, ...]
    targets: Targets | None
    classes: tuple[str, ...]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    skipped: int
    kinds: NDArray[np.int64] | None = None


def open_source(settings: SourceSettings, default: DatasetSettings) -> Source:
    """Open a source's dataset with the columns that its kind needs.

    Raises:
        DatasetError: it cannot be opened, or a column is missing.
    """
    dataset = settings.dataset or default
    if settings.kind == "pairs":
        group_column = (settings.group_column,) if settings.group_column else ()
        named = {
            "group_column": group_column,
            "negative_columns": settings.negative_columns,
            "columns": settings.columns,
        }
        first, others = settings.columns[0], [settings.columns[1], *settings.negative_columns, *group_column]
    else:
        own = {"vectors": {"vector_column": settings.vector_column}, "labels": {"label_column": settings.label_column}}
        column = own.get(settings.kind, {})
        named = {name: (value,) for name, value in {**column, "dataset.text_column": dataset.text_column}.items()}
        first, others = dataset.text_column, list(column.values())
    try:
        return open_dataset(dataset.model_copy(update={"text_column": first, "keep_columns": tuple(others)}))
    except ColumnError as error:
        wrong = [name for name, columns in named.items() if set(columns) & set(error.columns)]
        remedy = f"set {' and '.join(wrong)} of this source of train.sources to other columns"
        raise DatasetError(f"{error.problem}; {remedy}") from None


def read_rows(number: int, settings: SourceSettings, source: Source, bars: Bars = Bars()) -> Rows:
    """Read a source's rows.

    Raises:
        DatasetError: the input cannot be read, a column is not what its kind needs, or no row is usable.
    """
    name = f"{number}: {settings.kind}"
    tables = []
    with bars.open(f"read {name}", source.num_rows, "rows") as bar:
        for shard in source.shards():
            tables.append(shard.table)
            bar.update(len(shard.table))
    table = pa.concat_tables(tables)
    count_texts = {"pairs": 2 + len(settings.negative_columns)}.get(settings.kind, 1)
    columns = [_texts(table, column, source) for column in table.column_names[:count_texts]]
    needed = [_is_text(column) for column in columns[:2]]
    if settings.kind in ("vectors", "labels"):
        needed.append(pc.is_valid(table.column(1)).to_numpy())
    usable = np.flatnonzero(np.logical_and.reduce(needed))
    if not len(usable):
        raise DatasetError(
            f"{source.settings.path}: none of its {len(table):,} rows has all of {', '.join(table.column_names)}"
            f" (train.sources.{name}); check the columns"
        )
    texts = tuple([str(text or "") for text in column.take(pa.array(usable)).to_pylist()] for column in columns)
    rows = Rows(name, settings, texts, skipped=len(table) - len(usable))
    if settings.kind == "vectors":
        column = _vectors(table.column(1).take(pa.array(usable)), source, settings.vector_column)
        return replace(rows, column=column)
    if settings.kind == "pairs" and settings.group_column is not None:
        return replace(rows, column=_kinds(table.column(count_texts).take(pa.array(usable))))
    if settings.kind == "labels":
        return _with_classes(rows, table.column(1).take(pa.array(usable)), source, settings.label_column)
    return rows


def make_examples(
    rows: Rows,
    targets: Targets | None,
    tokenizer: TextTokenizer,
    tokenization: TokenizationSettings,
    *,
    held_out: int,
    seed: int,
    bars: Bars = Bars(),
) -> Examples:
    """Tokenize rows and choose those that are held out.

    Args:
        targets: gives the targets of rows, by their number in `rows`.
        tokenization: of the training texts.
        held_out: how many rows, at most a tenth of them.

    Raises:
        DatasetError: no row has a token.
    """
    sides = tuple(
        tokenize_column(column, tokenizer, tokenization, f"tokenize {rows.name}", bars) for column in rows.texts
    )
    full = np.logical_and.reduce([side.lengths > 0 for side in sides[:2]])
    usable = np.flatnonzero(full)
    if not len(usable):
        raise DatasetError(f"none of the texts of train.sources.{rows.name} has a token; check its text column")
    is_held_out = _hold_out(text_keys(rows.texts[0])[usable], held_out, seed)
    return Examples(
        name=rows.name,
        settings=rows.settings,
        sides=sides,
        targets=targets,
        classes=rows.classes,
        train=usable[~is_held_out],
        held_out=usable[is_held_out],
        skipped=rows.skipped + len(full) - len(usable),
        kinds=rows.column if rows.settings.kind == "pairs" else None,
    )


def tokenize_column(
    texts: Sequence[str], tokenizer: TextTokenizer, tokenization: TokenizationSettings, name: str, bars: Bars
) -> RaggedTokens:
    """The ids of texts, with a bar; a text that cannot be tokenized has none."""
    parts = []
    with bars.open(name, len(texts), "texts") as bar:
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            part = texts[start : start + _TOKENIZED_AT_ONCE]
            parts.append(tokenize_texts(part, tokenizer, tokenization, bad_rows="zero"))
            bar.update(len(part))
    return concatenate_tokens(parts)


def _hold_out(keys: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.bool_]:
    """bool[rows], about `count` rows and at most a tenth; all rows of a text or none of them."""
    count = min(count, len(keys) // _LARGEST_HELD_OUT)
    numbers = keys[:, :8].copy().view(np.uint64).ravel()
    _, text, occurrences = np.unique(numbers, return_inverse=True, return_counts=True)
    order = np.random.default_rng((seed, len(occurrences))).permutation(len(occurrences))
    order = order[np.argsort(occurrences[order] > 1, kind="stable")]
    chosen = np.zeros(len(occurrences), np.bool_)
    chosen[order[: np.searchsorted(np.cumsum(occurrences[order]), count, side="right")]] = True
    result: NDArray[np.bool_] = chosen[text]
    return result


def _texts(table: pa.Table, column: str, source: Source) -> pa.ChunkedArray:
    """A column of texts as large strings."""
    values = table.column(column)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DatasetError(
            f"{source.settings.path}: the column {column!r} is {values.type}, not text; name a column of strings, or"
            f" set dataset.types.{column} to string"
        )
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{source.settings.path}: the column {column!r} is not UTF-8 ({error}); fix it") from error
    return values.cast(pa.large_string())


def _is_text(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    present = pc.fill_null(pc.greater(pc.utf8_length(column), 0), False)
    found: NDArray[np.bool_] = present.to_numpy()
    return found


def _vectors(column: pa.ChunkedArray, source: Source, name: str) -> NDArray[np.float32]:
    """A column of lists of numbers as float32[rows, dim]."""
    where = f"{source.settings.path}: the column {name!r}"
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise DatasetError(f"{where} is {kind}, not lists of numbers; set vector_column to the column of vectors")
    lengths = pc.list_value_length(column).to_numpy()
    if lengths.min() != lengths.max() or not lengths[0]:
        raise DatasetError(
            f"{where} has vectors of {lengths.min()} to {lengths.max()} values; give all rows vectors of one width"
        )
    flat = pc.list_flatten(column).to_numpy().astype(np.float32)
    vectors = flat.reshape(len(column), int(lengths[0]))
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise DatasetError(f"{where} has a value that is no number in usable row {wrong[0]}; fix it or leave it out")
    return vectors


def _kinds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Equal values of a column as equal numbers, int64[rows]; null is a value too."""
    numbers = pc.dictionary_encode(column, null_encoding="encode").combine_chunks().indices
    found: NDArray[np.int64] = numbers.to_numpy().astype(np.int64)
    return found


def _with_classes(rows: Rows, column: pa.ChunkedArray, source: Source, name: str) -> Rows:
    values = column.to_pylist()
    if not all(isinstance(value, str | int | bool) for value in values):
        raise DatasetError(
            f"{source.settings.path}: the column {name!r} is {column.type}; classes are strings, integers or bools"
        )
    classes = sorted(set(values))
    if len(classes) < 2:
        raise DatasetError(
            f"{source.settings.path}: the column {name!r} has the one class {classes[0]!r}; nothing can be learned from"
            " it: name another label_column"
        )
    once = sum(count == 1 for count in Counter(values).values())
    if once > len(classes) / 2:
        log.warning(
            "%s: %s of the %s values of %r occur once, and an encoder learns little from such classes; is it the right"
            " label_column?",
            source.settings.path,
            f"{once:,}",
            f"{len(classes):,}",
            name,
        )
    number = {value: index for index, value in enumerate(classes)}
    column_of_numbers = np.array([number[value] for value in values], np.int64)
    return replace(rows, column=column_of_numbers, classes=tuple(str(value) for value in classes))
