"""Open a `datasets` dataset and cut it into shards: contiguous row ranges, in the dataset's own order.

Notable decisions:
- Only the columns that are needed are read, as Arrow tables, which is an order of magnitude faster than rows of
  Python objects (github.com/huggingface/datasets/issues/5821).
- Local files are fingerprinted by their contents, so a touched or moved file is the same input and a changed
  line is another one. Hub datasets are fingerprinted by the commit that they were resolved to.
- A stream is read table by table, as its files give them, and each is given the types of the first: `datasets` would
  join the tables of a shard first, and fail where a file or a block has made something else of a column.
"""

from __future__ import annotations

import copy
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
    SAVED_TO_DISK,
    cache_folder,
    files_of,
    files_read,
    fingerprint_of,
    folder_splits,
    format_of,
    load,
    load_files,
    load_saved,
    no_rows,
    one_format,
    read_options,
    reason,
)
from lengthwise.data.remote_files import RemoteFiles, find_remote_files, is_visible
from lengthwise.errors import DatasetError, LengthwiseError
from lengthwise.util.files import file_sha256

if TYPE_CHECKING:
    import datasets

_FEW_ROWS = 1_000
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
        num_rows: how many rows there are; None for a stream that was not read to its end yet.
        fingerprint: a hash of the rows' origin; equal for equal inputs.
        features: the types of the text column and the kept columns.
    """

    def __init__(
        self, data: datasets.Dataset | datasets.IterableDataset, fingerprint: str, settings: DatasetSettings
    ) -> None:
        import datasets

        self.settings = settings
        self.fingerprint = fingerprint
        self._streamed = not isinstance(data, datasets.Dataset)
        self.num_rows = None if self._streamed else len(data)
        if self.num_rows == 0:
            raise no_rows(settings)
        features = data.features or _features_of_first_rows(data, settings)
        columns = list(dict.fromkeys([settings.text_column, *settings.keep_columns]))
        missing = [name for name in columns if name not in features]
        if missing:
            raise DatasetError(
                f"{settings.path}: there is no column {', '.join(map(repr, missing))}; the columns are"
                f" {', '.join(map(repr, features))}; set dataset.text_column and dataset.keep_columns to some of them"
            )
        kind = features[settings.text_column]
        if not isinstance(kind, datasets.Value) or kind.dtype not in ("string", "large_string"):
            raise DatasetError(
                f"{settings.path}: the column {settings.text_column!r} is {kind}, not text;"
                " set dataset.text_column to a column of strings"
            )
        self.features = datasets.Features({name: features[name] for name in columns})
        self._data = data.with_format("arrow") if self._streamed else data.select_columns(columns).with_format("arrow")
        self._cursor: Iterator[Shard] | None = None
        self._next = 0  # the number of the shard that the cursor gives next

    @property
    def num_shards(self) -> int | None:
        """How many shards there are; None for a stream that was not read to its end yet."""
        return None if self.num_rows is None else -(-self.num_rows // self.settings.shard_rows)

    def shards(self, wanted: Callable[[int], bool] | None = None) -> Iterator[Shard]:
        """The shards, in order.

        Args:
            wanted: is asked once for each shard, by its number, whether it is wanted; all are if None. Rows of others
                are not touched; of a stream they are read past.

        Raises:
            DatasetError: the input breaks off or cannot be read.
        """
        if not self._streamed:
            for index in range(self.num_shards or 0):
                if wanted is None or wanted(index):
                    yield self._slice(index)
            return
        rows = 0
        for shard in self._stream():
            rows += shard.table.num_rows
            if wanted is None or wanted(shard.index):
                yield shard
        if not rows:
            raise no_rows(self.settings)
        self.num_rows = rows

    def read(self, index: int) -> Shard:
        """One shard, by its number; of a stream, what lies before it is read past.

        Raises:
            IndexError: there is no such shard.
            DatasetError: the input breaks off or cannot be read.
        """
        if not self._streamed:
            if not 0 <= index < (self.num_shards or 0):
                raise IndexError(index)
            return self._slice(index)
        if self._cursor is None or self._next > index:
            self._cursor, self._next = self._stream(), 0
        cursor, self._cursor = self._cursor, None  # one that breaks off, or is at its end, is not asked again
        for shard in cursor:
            self._next = shard.index + 1
            if shard.index == index:
                self._cursor = cursor
                return shard
        raise IndexError(index)

    def count_rows(self) -> int:
        """How many rows there are; a stream is read through for it, once."""
        if self.num_rows is None:
            for _ in self.shards(lambda index: False):
                pass
        return self.num_rows or 0

    def texts(self) -> Iterator[str]:
        """The texts that there are, in order; what is null or not UTF-8 is left out."""
        for shard in self.shards():
            for encoded in shard.table[self.settings.text_column].cast(pa.large_binary()).to_pylist():
                text = _decoded(encoded)
                if text is not None:
                    yield text

    def _slice(self, index: int) -> Shard:
        start = index * self.settings.shard_rows
        with self._told():
            table = self._data[start : start + self.settings.shard_rows]
        return Shard(index, start, self._typed(table, start))

    def _stream(self) -> Iterator[Shard]:
        first_row, index = 0, 0
        waiting: list[pa.Table] = []
        size = self.settings.shard_rows
        with self._told():
            for table in self._read_tables():
                waiting.append(self._typed(table, first_row + sum(map(len, waiting))))
                while (rows := sum(map(len, waiting))) >= size:
                    joined = pa.concat_tables(waiting)
                    yield Shard(index, first_row, joined.slice(0, size))
                    index, first_row = index + 1, first_row + size
                    waiting = [joined.slice(size)] if rows > size else []
            if waiting:
                yield Shard(index, first_row, pa.concat_tables(waiting))

    def _read_tables(self) -> Iterator[pa.Table]:
        """A stream's tables that have rows, as they are read."""
        files = copy.copy(self._data._ex_iterable)
        files._init_state_dict()  # from the beginning, wherever others are
        if files.iter_arrow is None:
            yield from self._data.iter(batch_size=min(self.settings.shard_rows, _FEW_ROWS))
        else:
            yield from (table for _, table in files.iter_arrow() if table.num_rows)

    def _typed(self, table: pa.Table, first_row: int) -> pa.Table:
        """The columns with the types that all shards have; a column that is missing is null."""
        schema = self.features.arrow_schema
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
                columns.append(cast_array_to_feature(column, self.features[field.name]))
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise DatasetError(
                    f"{self.settings.path}: the column {field.name!r} is {column.type} in rows {first_row} to"
                    f" {first_row + table.num_rows - 1}, but {field.type} before ({reason(error)}); mend the input, or"
                    " leave the column out of dataset.keep_columns"
                ) from error
        return pa.table(columns, schema=schema)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except LengthwiseError:
            raise
        except Exception as error:  # readers raise whatever their format's library raises
            raise DatasetError(f"{self.settings.path}: the rows cannot be read ({reason(error)})") from error


def open_dataset(settings: DatasetSettings, fingerprint: str | None = None) -> Source:
    """Open the dataset that the settings name.

    Args:
        fingerprint: of the input, where it is known already, so that its files need not be read for it.

    Raises:
        DatasetError: there is no such dataset, split or column, or it cannot be read.
    """
    if "://" in settings.path:
        return _open_url(settings, fingerprint)
    try:
        path = Path(settings.path).expanduser()
        files = _local_files(path, settings)
        if files is not None:
            return _open_files(path, files, settings, fingerprint)
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, a user that there is not
        raise DatasetError(
            f"{settings.path}: cannot be opened ({reason(error)}); set dataset.path to a file, a folder or a glob that"
            " may be read"
        ) from error
    return _open_hub(settings, fingerprint)


def _local_files(path: Path, settings: DatasetSettings) -> list[Path] | None:
    """The local files that `dataset.path` names, hidden ones of a folder too; None where it is a name on the hub."""
    if path.is_dir():
        return [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_dotted(file, path)]
    if path.is_file():  # its name may hold what a glob would read as a pattern
        return [path]
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
    if matches:
        return matches
    if _HUB_NAME.fullmatch(settings.path) and format_of(path) is None:
        return None
    raise DatasetError(
        f"{settings.path}: there is no such file or folder (looked in {Path.cwd()}); set dataset.path to a file,"
        " a folder, a glob or a hub name"
    )


def _is_dotted(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _open_files(path: Path, files: list[Path], settings: DatasetSettings, known: str | None) -> Source:
    """Local files: those of a saved folder, those that a folder's card names, or those of one format."""
    if path.is_dir() and any((path / name).exists() for name in SAVED_TO_DISK):
        return Source(load_saved(path, settings), known or _contents(files, settings), settings)
    if path.is_dir() and not settings.format and _card_names_files(path):
        fingerprint = known or _contents(files, settings)
        formats = {format_of(file) for file in files if is_visible(str(file), str(path))} - {None}
        kind = formats.pop() if len(formats) == 1 else None
        options = read_options(kind, [file for file in files if format_of(file) == kind], settings)
        return Source(load(settings, str(path), cache_dir=cache_folder(fingerprint), **options), fingerprint, settings)
    if path.is_dir():
        files = [file for file in files if is_visible(str(file), str(path))]
    kind = one_format(files, settings)
    if not any(file.stat().st_size for file in files):
        raise no_rows(settings)
    splits = {"train": [str(file) for file in files]}
    if path.is_dir():
        splits = folder_splits(
            str(path.resolve()), settings, {str(path.resolve() / file.relative_to(path)) for file in files}
        )
    read = files_of(kind, splits)
    fingerprint = known or _contents(files_read(read, settings), settings)
    return Source(load_files(kind, read, fingerprint, settings), fingerprint, settings)


def _card_names_files(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and "\ndata_files:" in re.sub(r"\n[ -]+", "\n", card.read_text("utf-8", "replace"))


def _open_url(settings: DatasetSettings, known: str | None) -> Source:
    """The file, glob or folder at one of fsspec's URLs."""
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(settings.path)
        if "file" in (fs.protocol, *fs.protocol):
            return open_dataset(settings.model_copy(update={"path": root}), known)
        objects = find_remote_files(fs, root)
        if not objects.infos:
            raise DatasetError(
                f"{settings.path}: there is no such file or folder; set dataset.path to one, or to a glob"
            )
        return _open_objects(objects, settings, known)
    except LengthwiseError:
        raise
    except Exception as error:  # clients of object stores have exceptions of their own
        raise DatasetError(
            f"{settings.path}: cannot be opened ({reason(error)}); check dataset.path, the credentials in the"
            " environment, and that the package for this protocol is installed"
        ) from error


def _open_objects(objects: RemoteFiles, settings: DatasetSettings, known: str | None) -> Source:
    paths = list(objects.infos)
    if objects.is_folder and {f"{objects.root.rstrip('/')}/{name}" for name in SAVED_TO_DISK} & set(paths):
        data = load_saved(settings.path, settings)
        return Source(
            data, known or fingerprint_of({path: objects.version(path) for path in paths}, settings), settings
        )
    kind = one_format(paths, settings)
    urls = [objects.url(path) for path in paths]
    splits = folder_splits(objects.url(objects.root), settings, set(urls)) if objects.is_folder else {"train": urls}
    read = files_of(kind, splits)
    chosen = [objects.path(url) for url in files_read(read, settings)]
    fingerprint = known or fingerprint_of({path: objects.version(path) for path in chosen}, settings)
    return Source(load_files(kind, read, fingerprint, settings), fingerprint, settings)


def _open_hub(settings: DatasetSettings, known: str | None) -> Source:
    import datasets

    try:
        builder = datasets.load_dataset_builder(settings.path, settings.name, revision=settings.revision)
    except Exception as error:  # the hub client has many ways to say that it found nothing
        raise DatasetError(
            f"{settings.path}: neither a local file or folder nor a dataset that the hub gives ({reason(error)});"
            " check dataset.path, dataset.name, dataset.revision and the network"
        ) from error
    found = hashlib.sha256(f"{settings.path} {builder.config.name} {builder.hash} {settings.split}".encode())
    data = load(settings, settings.path, settings.name, revision=settings.revision)
    return Source(data, known or found.hexdigest(), settings)


def _contents(files: Iterable[str | Path], settings: DatasetSettings) -> str:
    return fingerprint_of({str(file): file_sha256(Path(file)) for file in files}, settings)


def _features_of_first_rows(data: datasets.IterableDataset, settings: DatasetSettings) -> datasets.Features:
    """The types of a stream that does not declare them."""
    import datasets

    try:
        table = next(iter(data.with_format("arrow").iter(batch_size=_FEW_ROWS)), None)
    except Exception as error:  # readers raise whatever their format's library raises
        raise DatasetError(f"{settings.path}: the rows cannot be read ({reason(error)})") from error
    if table is None or not table.num_rows:
        raise no_rows(settings)
    return datasets.Features.from_arrow_schema(table.schema)


def _decoded(encoded: bytes | None) -> str | None:
    try:
        return None if encoded is None else encoded.decode()
    except UnicodeDecodeError:
        return None
