"""Data files as a `datasets` dataset, read by this package's own readers.

The readers of `datasets` guess the types of CSV and JSON columns from a file's first block, and refuse a parquet file
for a column that is not needed. So only its storage is used here: the Arrow cache, the splits and the streams.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from lengthwise.config import DatasetSettings
from lengthwise.data import columnar_files, csv_files, json_files, text_files
from lengthwise.data.files import DataFile
from lengthwise.data.lines import check_declared_encoding
from lengthwise.data.readers import (
    cache_folder,
    check_options,
    check_types,
    describe_format,
    known_cause,
    missing_column_error,
    no_rows_error,
    reading_options,
    split_error,
    unreadable_error,
    wrap_file_errors,
)
from lengthwise.data.source import Source
from lengthwise.data.tables import BAD_ROW
from lengthwise.errors import DatasetError, LengthwiseError
from lengthwise.util.files import write_atomically

_READERS: dict[str, Any] = {
    "csv": csv_files,
    "json": json_files,
    "text": text_files,
    "parquet": columnar_files,
    "arrow": columnar_files,
}
_LINE_FORMATS = ("csv", "json", "text")
_CARD_FIELDS = {field.name for field in dataclasses.fields(datasets.BuilderConfig)} | {"features"}
_SHARED_OPTIONS = ("encoding", "field")  # have the same name and meaning here


@dataclass(frozen=True)
class _Plan:
    """What to read.

    Attributes:
        format: one of `_READERS`.
        splits: the files of each split.
        schema: the needed columns.
        keep_bad: whether malformed rows are marked, rather than errors.
    """

    format: str
    splits: dict[str, list[DataFile]]
    schema: pa.Schema
    settings: DatasetSettings
    keep_bad: bool

    @property
    def features(self) -> datasets.Features:
        """The types of the columns of the dataset."""
        features = datasets.Features.from_arrow_schema(self.schema)
        return datasets.Features({**features, BAD_ROW: datasets.Value("string")}) if self.keep_bad else features


class _FilesBuilder(datasets.ArrowBasedBuilder):
    """Builds a dataset of a plan."""

    def __init__(self, plan: _Plan, cache_dir: str) -> None:
        self._plan = plan
        super().__init__(cache_dir=cache_dir, dataset_name="rows", hash="plan")

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self._plan.features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"files": files}) for name, files in self._plan.splits.items()
        ]

    def _generate_tables(self, files: list[DataFile]) -> Iterator[tuple[Any, pa.Table]]:
        plan = self._plan
        for number, file in enumerate(files):
            tables = _READERS[plan.format].read_tables(file, plan.schema, plan.settings, keep_bad=plan.keep_bad)
            for part, table in enumerate(_wrap_errors(tables, file, plan.settings)):
                yield (number, part), table  # datasets before 5 has no class of keys


def open_files(
    format_name: str,
    splits: dict[str, list[DataFile]],
    fingerprint: str,
    settings: DatasetSettings,
    features: datasets.Features | None = None,
    *,
    keep_bad: bool = False,
) -> Source:
    """Open `dataset.split` of files of one format.

    Args:
        splits: the files of each split.
        fingerprint: the input's.
        features: types that a dataset card declares.
        keep_bad: whether malformed rows are marked, rather than errors.

    Raises:
        DatasetError: a file cannot be read, or lacks the text column or a kept column.
    """
    check_options(settings, format_name)
    splits = _needed_splits(splits, settings)
    if format_name in _LINE_FORMATS and settings.encoding is not None:
        for file in (file for files in splits.values() for file in files):
            with wrap_file_errors(file, settings):
                check_declared_encoding(file, settings)
    schema = _find_schema(format_name, splits, fingerprint, settings)
    first_file = next(file for files in splits.values() for file in files)
    schema = _declare(_select(format_name, schema, settings, describe_format(first_file, settings)), features)
    plan = _Plan(format_name, splits, schema, settings, keep_bad)
    versions = {name: [_cache_version(file) for file in files] for name, files in splits.items()}
    key = repr((schema, schema.metadata, _reading_settings(settings), settings.name, versions, keep_bad))
    data = _load(plan, str(Path(cache_folder(fingerprint)) / _hash(key)))
    locate = partial(_locate, plan) if settings.split in splits and format_name in _LINE_FORMATS else None
    return Source(data, fingerprint, settings, _READERS[format_name].NO_ROWS, locate)


def _locate(plan: _Plan, rows: Sequence[int]) -> dict[int, str]:
    """The file and line of rows of the split."""
    wanted, found, row = set(rows), dict[int, str](), 0
    column = "" if plan.format == "text" else f", column {plan.settings.text_column!r}"
    for file in plan.splits[plan.settings.split]:
        for line, _ in _READERS[plan.format].read_rows(file, plan.schema, plan.settings):
            if row in wanted:
                found[row] = f"{file}, line {line}{column}"
                if len(found) == len(wanted):
                    return found
            row += 1
    return found


def _load(plan: _Plan, cache_dir: str) -> datasets.Dataset | datasets.IterableDataset:
    """The needed columns, and of malformed rows `BAD_ROW`."""
    settings, builder = plan.settings, _FilesBuilder(plan, cache_dir)
    try:
        if settings.streaming:
            return builder.as_streaming_dataset(split=settings.split)
        builder.download_and_prepare()
        if not sum(split.num_examples for split in builder.info.splits.values()):
            raise no_rows_error(settings, _READERS[plan.format].NO_ROWS)
        return builder.as_dataset(split=settings.split)
    except Exception as error:  # the library raises exceptions of any type
        if (known := known_cause(error)) is not None:
            raise known from error
        raise split_error(error, settings) from error


def read_card(
    card: datasets.DatasetBuilder, settings: DatasetSettings
) -> tuple[str, dict[str, list[str]], DatasetSettings] | None:
    """What a dataset card names: the format, the files by split, and the settings with its options.

    None if it names another format, or an option that only the readers of `datasets` have.
    """
    config, name = card.config, type(card).__module__.rpartition(".")[2]
    if name not in _READERS or not config.data_files:
        return None
    defaults = type(config)()
    given = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in _CARD_FIELDS and getattr(config, field.name) != getattr(defaults, field.name)
    }
    csv = {}
    if (delimiter := given.pop("sep", None)) is not None:
        csv["delimiter"] = settings.csv.delimiter or delimiter
    given.pop("delimiter", None)
    if (names := given.pop("names", None)) is not None:
        csv["column_names"] = settings.csv.column_names or tuple(names)
    given.pop("column_names", None)
    changes: dict[str, Any] = {}
    for option in _SHARED_OPTIONS:
        changes[option] = getattr(settings, option) or given.pop(option, None)
        given.pop(option, None)
    if given:
        return None
    changes["csv"] = settings.csv.model_copy(update=csv)
    splits = {str(split): [str(file) for file in files] for split, files in config.data_files.items()}
    return name, splits, settings.model_copy(update=changes)


def _needed_splits(splits: dict[str, list[DataFile]], settings: DatasetSettings) -> dict[str, list[DataFile]]:
    """The splits that `dataset.split` needs; all of them if it is an expression such as "train[:10%]"."""
    if settings.split in splits:
        return {settings.split: splits[settings.split]}
    if settings.split.isidentifier() and settings.split != "all":
        names = ", ".join(map(repr, splits))
        raise DatasetError(
            f"{settings.path}: split {settings.split!r} cannot be loaded (there are the splits {names}); check"
            " dataset.split and the names of the files"
        )
    return splits


def _find_schema(
    format_name: str, splits: dict[str, list[DataFile]], fingerprint: str, settings: DatasetSettings
) -> pa.Schema:
    """The columns of the files; kept beside the rows, so that a file is looked at once."""
    files = list(dict.fromkeys(file for found in splits.values() for file in found))
    wanted = repr(([_cache_version(file) for file in files], _reading_settings(settings)))
    path = Path(cache_folder(fingerprint)) / f"{_hash(wanted)}.schema"
    if path.is_file():
        return pa.ipc.read_schema(pa.py_buffer(path.read_bytes()))
    is_local = not any("://" in file.path for file in files)
    thorough = is_local or not settings.streaming
    try:
        if format_name == "json":
            schema = json_files.read_schema(files, settings, thorough=thorough)
        elif format_name == "text" or thorough:
            schema = _READERS[format_name].read_schema(files, settings)
        else:  # the later ones are opened when they are read
            schema = _READERS[format_name].read_schema(files[:1], settings)
    except LengthwiseError:
        raise
    except Exception as error:  # damaged files and lost connections raise exceptions of any type
        raise unreadable_error(error, files[0] if len(files) == 1 else None, settings) from error
    if thorough:
        write_atomically(path, schema.serialize().to_pybytes())
    return schema


def _select(format_name: str, schema: pa.Schema, settings: DatasetSettings, hint: str) -> pa.Schema:
    """The columns that are needed.

    Args:
        hint: what may be wrong with the files, for the error.

    Raises:
        DatasetError: one is missing.
    """
    needed = list(dict.fromkeys([settings.text_column, *settings.keep_columns]))
    missing = [name for name in needed if name not in schema.names]
    if not schema.names:
        raise no_rows_error(settings, _READERS[format_name].NO_ROWS)
    if missing:
        if format_name == "csv":
            hint = hint or csv_files.missing_column_hint(schema.names, settings)
        elif format_name == "json":
            hint = hint or json_files.missing_column_hint(schema, settings)
        raise missing_column_error(missing, schema.names, settings, hint)
    check_types(schema.names, settings)
    return pa.schema([schema.field(name) for name in needed], schema.metadata)


def _declare(schema: pa.Schema, features: datasets.Features | None) -> pa.Schema:
    """The schema with the types that a dataset card declares."""
    if features is None:
        return schema
    chosen = datasets.Features.from_arrow_schema(schema)
    chosen.update({name: features[name] for name in schema.names if name in features})
    return chosen.arrow_schema


def _cache_version(file: DataFile) -> tuple[Any, ...]:
    """What a cached file is found by: a caller may give the same fingerprint after a local file has changed."""
    if "://" in file.path:
        return (file,)
    status = os.stat(file.path)
    return file, status.st_size, status.st_mtime_ns


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]


def _reading_settings(settings: DatasetSettings) -> list[Any]:
    """The settings that decide which columns are read, and how."""
    return [settings.text_column, settings.keep_columns, *reading_options(settings)]


def _wrap_errors(tables: Iterator[pa.Table], file: DataFile, settings: DatasetSettings) -> Iterator[pa.Table]:
    with wrap_file_errors(file, settings):
        yield from tables
