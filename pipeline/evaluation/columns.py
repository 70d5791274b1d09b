"""Reads columns of a task's files: CSV, tab-separated, JSON Lines, parquet, and all else that `dataset.path` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lengthwise.data.dataset import open_dataset
from lengthwise.dataset_config import ColumnType, DatasetSettings
from lengthwise.errors import ColumnError, DatasetError
from lengthwise.evaluation.tasks import Task


def read_task_columns(task: Task, path: str, texts: Sequence[str], others: Sequence[str] = ()) -> list[list[Any]]:
    """`read_columns` of the columns that a task's settings name.

    Args:
        texts: the settings that name columns of text.
        others: the settings that name columns of any type.
    """
    columns = {name: str(getattr(task, name)) for name in (*texts, *others)}
    try:
        return read_columns(path, [columns[name] for name in texts], [columns[name] for name in others])
    except ColumnError as error:
        wrong = [name for name, column in columns.items() if column in error.columns]
        raise DatasetError(f"{error.problem}; set {' and '.join(wrong)} of the task to other columns") from None


def read_columns(path: str, texts: Sequence[str], others: Sequence[str] = ()) -> list[list[Any]]:
    """The values of columns, a list for each.

    Args:
        texts: columns of text, none of which may be null.
        others: columns of any type, none of which may be null either.

    Raises:
        ColumnError: there is no such column, or one of `texts` holds something else.
        DatasetError: there is no such file, it cannot be read, or a value is missing.
    """
    names = [*texts, *others]
    first, rest = names[0], tuple(dict.fromkeys(name for name in names[1:] if name != names[0]))
    types: dict[str, ColumnType] = {} if texts else {first: "string"}  # ids may be numbers
    settings = DatasetSettings(path=path, text_column=first, keep_columns=rest, types=types)
    table = pa.concat_tables([shard.table for shard in open_dataset(settings).shards()])
    for name in names:
        if table[name].null_count:
            row = table[name].is_null().to_pylist().index(True)
            raise DatasetError(f"{path}: the column {name!r} has no value in row {row}; fill it, or leave the row out")
    for name in texts:
        if not _is_text(table[name].type):
            problem = f"{path}: the column {name!r} holds {table[name].type}, not text"
            raise ColumnError(problem, [name], "give a file with a column of strings")
    return [table[name].to_pylist() for name in names]


def read_numbers(path: str, column: str, values: Sequence[Any]) -> list[float]:
    """The values of a column as numbers, which CSV files hold as text.

    Raises:
        DatasetError: a value is no number.
    """
    numbers = []
    for row, value in enumerate(values):
        try:
            numbers.append(float(value))
        except (TypeError, ValueError):
            raise DatasetError(
                f"{path}: the column {column!r} has {value!r} in row {row}, which is no number; name another column"
            ) from None
    return numbers


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
