"""Open a `datasets` dataset and cut it into shards: contiguous row ranges, in the dataset's order.

- Only the needed columns are read, as Arrow tables, which is an order of magnitude faster than rows of Python objects
  (github.com/huggingface/datasets/issues/5821).
- Local files are fingerprinted by their contents: a touched or moved file is the same input, a changed line is another
  one. Hub datasets are fingerprinted by the commit that they resolve to.
- A stream is read table by table, and each table is cast to the types of the first one (`compat.iter_arrow_tables`).
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lengthwise.config import DatasetSettings
from lengthwise.data.readers import (
    SAVED_DATASET_FILES,
    cache_folder,
    common_format,
    describe_error,
    file_format,
    find_splits,
    fingerprint_files,
    load_files,
    load_saved_dataset,
    load_split,
    no_rows_error,
    read_options,
    select_format,
    select_split,
)
from lengthwise.data.remote_files import RemoteFiles, find_remote_files, is_visible
from lengthwise.errors import DatasetError, LengthwiseError
from lengthwise.util.compat import iter_arrow_tables
from lengthwise.util.files import file_sha256

if TYPE_CHECKING:
    import datasets

_BATCH_ROWS = 1_000
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Shard:
    """A contiguous range of a dataset's rows.

    Attributes:
        index: its number, from 0.
        first_row: the dataset's row number of its first row.
        table: the text column and the kept columns of its rows.
    """

    index: int
    first_row: int
    table: pa.Table


class Source:
    """An opened dataset.

    Attributes:
        settings: what it was opened with.
        num_rows: the number of rows; None for a stream that has not been read to its end.
        fingerprint: a hash of the rows' origin; equal for equal inputs.
        features: the types of the text column and the kept columns.
    """

    def __init__(
        self, data: datasets.Dataset | datasets.IterableDataset, fingerprint: str, settings: DatasetSettings
    ) -> None:
        import datasets

        self.settings = settings
        self.fingerprint = fingerprint
        self._is_stream = not isinstance(data, datasets.Dataset)
        self.num_rows = None if self._is_stream else len(data)
        if self.num_rows == 0:
            raise no_rows_error(settings)
        self.features = _select_features(data.features or _infer_features(data, settings), settings)
        data = data if self._is_stream else data.select_columns(list(self.features))
        self._data = data.with_format("arrow")
        self._cursor: Iterator[Shard] | None = None
        self._next_index = 0  # the shard that the cursor gives next

    @property
    def num_shards(self) -> int | None:
        """The number of shards; None for a stream that has not been read to its end."""
        return None if self.num_rows is None else -(-self.num_rows // self.settings.shard_rows)

    def shards(self, selected: Callable[[int], bool] | None = None) -> Iterator[Shard]:
        """The shards, in order.

        Args:
            selected: called once per shard with its index; returns whether to read it. None selects all. The rows of
                other shards are skipped; those of a stream are read and dropped.

        Raises:
            DatasetError: the input ends early or cannot be read.
        """
        if not self._is_stream:
            for index in range(self.num_shards or 0):
                if selected is None or selected(index):
                    yield self._slice(index)
            return
        num_rows = 0
        for shard in self._stream():
            num_rows += shard.table.num_rows
            if selected is None or selected(shard.index):
                yield shard
        if not num_rows:
            raise no_rows_error(self.settings)
        self.num_rows = num_rows

    def read(self, index: int) -> Shard:
        """One shard, by its index; a stream is read up to it.

        Raises:
            IndexError: there is no such shard.
            DatasetError: the input ends early or cannot be read.
        """
        if not self._is_stream:
            if not 0 <= index < (self.num_shards or 0):
                raise IndexError(index)
            return self._slice(index)
        if self._cursor is None or self._next_index > index:
            self._cursor, self._next_index = self._stream(), 0
        cursor, self._cursor = self._cursor, None  # kept only if it neither fails nor ends
        for shard in cursor:
            self._next_index = shard.index + 1
            if shard.index == index:
                self._cursor = cursor
                return shard
        raise IndexError(index)

    def count_rows(self) -> int:
        """The number of rows; a stream is read to its end for it, once."""
        if self.num_rows is None:
            for _ in self.shards(lambda index: False):
                pass
        return self.num_rows or 0

    def texts(self) -> Iterator[str]:
        """The texts, in order, without those that are null or not UTF-8."""
        for shard in self.shards():
            for encoded in shard.table[self.settings.text_column].cast(pa.large_binary()).to_pylist():
                text = _decode(encoded)
                if text is not None:
                    yield text

    def _slice(self, index: int) -> Shard:
        first_row = index * self.settings.shard_rows
        with self._wrap_errors():
            table = self._data[first_row : first_row + self.settings.shard_rows]
        return Shard(index, first_row, self._cast(table, first_row))

    def _stream(self) -> Iterator[Shard]:
        first_row, index = 0, 0
        tables: list[pa.Table] = []
        size = self.settings.shard_rows
        with self._wrap_errors():
            for table in iter_arrow_tables(self._data, min(size, _BATCH_ROWS)):
                tables.append(self._cast(table, first_row + sum(map(len, tables))))
                while (num_rows := sum(map(len, tables))) >= size:
                    joined = pa.concat_tables(tables)
                    yield Shard(index, first_row, joined.slice(0, size))
                    index, first_row = index + 1, first_row + size
                    tables = [joined.slice(size)] if num_rows > size else []
            if tables:
                yield Shard(index, first_row, pa.concat_tables(tables))

    def _cast(self, table: pa.Table, first_row: int) -> pa.Table:
        """`_cast_table`, whose error names the dataset and its rows."""
        try:
            return _cast_table(table, self.features)
        except _CastError as error:
            raise DatasetError(
                f"{self.settings.path}: the column {error.column!r} is {error.found} in rows {first_row} to"
                f" {first_row + table.num_rows - 1}, but {error.expected} before ({describe_error(error)}); fix the"
                " input, or leave the column out of dataset.keep_columns"
            ) from error

    @contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        try:
            yield
        except LengthwiseError:
            raise
        except Exception as error:  # readers raise exceptions of any type
            raise DatasetError(f"{self.settings.path}: the rows cannot be read ({describe_error(error)})") from error


class _CastError(Exception):
    """A column does not have the type of the earlier rows, nor can it be cast to it; the cause says why."""

    def __init__(self, column: str, found: pa.DataType, expected: pa.DataType) -> None:
        super().__init__(column)
        self.column, self.found, self.expected = column, found, expected


def _cast_table(table: pa.Table, features: datasets.Features) -> pa.Table:
    """The columns of `features` with their types; a missing column is null.

    Raises:
        _CastError: a column cannot be cast.
    """
    schema = features.arrow_schema
    if table.schema.equals(schema):
        return table
    from datasets.table import cast_array_to_feature

    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        try:
            columns.append(cast_array_to_feature(column, features[field.name]))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise _CastError(field.name, column.type, field.type) from error
    return pa.table(columns, schema=schema)


def _select_features(features: datasets.Features, settings: DatasetSettings) -> datasets.Features:
    """The types of the text column and the kept columns.

    Raises:
        DatasetError: a column is missing, or the text column does not hold strings.
    """
    import datasets

    columns = list(dict.fromkeys([settings.text_column, *settings.keep_columns]))
    missing = [name for name in columns if name not in features]
    if missing:
        raise DatasetError(
            f"{settings.path}: there is no column {', '.join(map(repr, missing))}; the columns are"
            f" {', '.join(map(repr, features))}; set dataset.text_column and dataset.keep_columns to some of them"
        )
    feature = features[settings.text_column]
    if not isinstance(feature, datasets.Value) or feature.dtype not in ("string", "large_string"):
        raise DatasetError(
            f"{settings.path}: the column {settings.text_column!r} is {feature}, not text;"
            " set dataset.text_column to a column of strings"
        )
    return datasets.Features({name: features[name] for name in columns})


def _infer_features(data: datasets.IterableDataset, settings: DatasetSettings) -> datasets.Features:
    """The types of the first rows of a stream that does not declare them."""
    import datasets

    try:
        table = next(iter(data.with_format("arrow").iter(batch_size=_BATCH_ROWS)), None)
    except Exception as error:  # readers raise exceptions of any type
        raise DatasetError(f"{settings.path}: the rows cannot be read ({describe_error(error)})") from error
    if table is None or not table.num_rows:
        raise no_rows_error(settings)
    return datasets.Features.from_arrow_schema(table.schema)


def open_dataset(settings: DatasetSettings, fingerprint: str | None = None) -> Source:
    """Open the dataset that the settings name: local files, a folder, files at a URL, or a hub dataset.

    Args:
        fingerprint: the input's, if it is known already, so that its files are not read to compute it.

    Raises:
        DatasetError: there is no such dataset, split or column, or it cannot be read.
    """
    if "://" in settings.path:
        return _open_url(settings, fingerprint)
    try:
        path = Path(settings.path).expanduser()
        files = _find_local_files(path, settings)
        if files is not None:
            return _open_local(path, files, settings, fingerprint)
    except (OSError, ValueError, RuntimeError) as error:  # an impossible file name, or an unknown user after "~"
        raise DatasetError(
            f"{settings.path}: cannot be opened ({describe_error(error)}); set dataset.path to a file, a folder or a"
            " glob that can be read"
        ) from error
    return _open_hub(settings, fingerprint)


def _find_local_files(path: Path, settings: DatasetSettings) -> list[Path] | None:
    """The local files of `dataset.path`, sorted, a folder's "_" files included; None if it is a hub name.

    Raises:
        DatasetError: there are none.
    """
    if path.is_dir():
        return [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_hidden(file, path)]
    if path.is_file():  # before the glob: a file's name may contain a glob's special characters
        return [path]
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
    if matches:
        return matches
    if _HUB_NAME.fullmatch(settings.path) and file_format(path) is None:
        return None
    raise DatasetError(
        f"{settings.path}: there is no such file or folder (looked in {Path.cwd()}); set dataset.path to a file,"
        " a folder, a glob or a hub name"
    )


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _open_local(path: Path, files: list[Path], settings: DatasetSettings, known_fingerprint: str | None) -> Source:
    """Open a folder of `save_to_disk`, a folder with a dataset card, or files of one format."""
    if path.is_dir() and any((path / name).exists() for name in SAVED_DATASET_FILES):
        fingerprint = known_fingerprint or _fingerprint_local(files, settings)
        return Source(load_saved_dataset(path, settings), fingerprint, settings)
    if path.is_dir() and not settings.format and _has_data_card(path):
        return _open_card(path, files, settings, known_fingerprint or _fingerprint_local(files, settings))
    if path.is_dir():
        files = [file for file in files if is_visible(str(file), str(path))]
    format_name = common_format(files, settings)
    if not any(file.stat().st_size for file in files):
        raise no_rows_error(settings)
    splits = {"train": [str(file) for file in files]}
    if path.is_dir():
        folder = path.resolve()
        splits = find_splits(str(folder), settings, {str(folder / file.relative_to(path)) for file in files})
    splits = select_format(format_name, splits)
    fingerprint = known_fingerprint or _fingerprint_local(select_split(splits, settings), settings)
    return Source(load_files(format_name, splits, fingerprint, settings), fingerprint, settings)


def _has_data_card(folder: Path) -> bool:
    """Whether the folder's README.md names its data files in its YAML header."""
    card = folder / "README.md"
    return card.is_file() and "\ndata_files:" in re.sub(r"\n[ -]+", "\n", card.read_text("utf-8", "replace"))


def _open_card(folder: Path, files: list[Path], settings: DatasetSettings, fingerprint: str) -> Source:
    """Open the data files that a folder's README.md names."""
    formats = {file_format(file) for file in files if is_visible(str(file), str(folder))} - {None}
    format_name = formats.pop() if len(formats) == 1 else None
    options = read_options(format_name, [file for file in files if file_format(file) == format_name], settings)
    data = load_split(settings, str(folder), cache_dir=cache_folder(fingerprint), **options)
    return Source(data, fingerprint, settings)


def _open_url(settings: DatasetSettings, known_fingerprint: str | None) -> Source:
    """Open the file, glob or folder at an fsspec URL."""
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(settings.path)
        if "file" in (fs.protocol, *fs.protocol):
            return open_dataset(settings.model_copy(update={"path": root}), known_fingerprint)
        files = find_remote_files(fs, root)
        if not files.infos:
            raise DatasetError(
                f"{settings.path}: there is no such file or folder; set dataset.path to one, or to a glob"
            )
        return _open_remote(files, settings, known_fingerprint)
    except LengthwiseError:
        raise
    except Exception as error:  # clients of object stores have exceptions of their own
        raise DatasetError(
            f"{settings.path}: cannot be opened ({describe_error(error)}); check dataset.path, the credentials in the"
            " environment, and that the package for this protocol is installed"
        ) from error


def _open_remote(files: RemoteFiles, settings: DatasetSettings, known_fingerprint: str | None) -> Source:
    """Open a folder of `save_to_disk`, or files of one format."""

    def fingerprint_remote(paths: Iterable[str]) -> str:
        return known_fingerprint or fingerprint_files({path: files.version(path) for path in paths}, settings)

    if files.is_folder and any(f"{files.root.rstrip('/')}/{name}" in files.infos for name in SAVED_DATASET_FILES):
        return Source(load_saved_dataset(settings.path, settings), fingerprint_remote(files.infos), settings)
    format_name = common_format(list(files.infos), settings)
    paths = {files.url(path): path for path in files.infos}
    splits = {"train": list(paths)}
    if files.is_folder:
        splits = find_splits(files.url(files.root), settings, set(paths))
    splits = select_format(format_name, splits)
    fingerprint = fingerprint_remote(paths[url] for url in select_split(splits, settings))
    return Source(load_files(format_name, splits, fingerprint, settings), fingerprint, settings)


def _open_hub(settings: DatasetSettings, known_fingerprint: str | None) -> Source:
    import datasets

    try:
        builder = datasets.load_dataset_builder(settings.path, settings.name, revision=settings.revision)
    except Exception as error:  # the hub client has many exceptions for a dataset that it cannot find
        raise DatasetError(
            f"{settings.path}: neither a local file or folder nor a dataset on the hub ({describe_error(error)});"
            " check dataset.path, dataset.name, dataset.revision and the network"
        ) from error
    found = hashlib.sha256(f"{settings.path} {builder.config.name} {builder.hash} {settings.split}".encode())
    data = load_split(settings, settings.path, settings.name, revision=settings.revision)
    return Source(data, known_fingerprint or found.hexdigest(), settings)


def _fingerprint_local(files: Iterable[str | Path], settings: DatasetSettings) -> str:
    return fingerprint_files({str(file): file_sha256(Path(file)) for file in files}, settings)


def _decode(encoded: bytes | None) -> str | None:
    """A text, or None if it is null or not UTF-8."""
    try:
        return None if encoded is None else encoded.decode()
    except UnicodeDecodeError:
        return None
