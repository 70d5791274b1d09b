"""Open a `datasets` dataset and cut it into shards: contiguous row ranges, in the dataset's own order.

Notable decisions:
- Only the columns that are needed are read, as Arrow tables, which is an order of magnitude faster than rows of
  Python objects (github.com/huggingface/datasets/issues/5821).
- Local files are fingerprinted by their contents, so a touched or moved file is the same input and a changed
  line is another one. Hub datasets are fingerprinted by the commit that they were resolved to.
- `datasets` knows a local file by its path and time stamp alone, and would give the old rows of a file that was
  replaced by one of the same age; its cache of local files is therefore kept apart by fingerprint.
- Files at a URL (`s3://...`) are fingerprinted by what the store says of their contents, so that they are not read
  twice. Credentials come from the environment or fsspec's own configuration, never from a run's YAML, which is saved.
- In a CSV file only an empty cell is null, and a text is what stands there: pandas would also take "NA", "None"
  or "null" for nulls, and "007" for 7.
"""

from __future__ import annotations

import glob
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.json

from pipeline.config import DatasetSettings
from pipeline.errors import DatasetError, LengthwiseError
from pipeline.files import file_sha256

if TYPE_CHECKING:
    import datasets

_FORMATS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_SAVED_TO_DISK = ("state.json", "dataset_dict.json")
_PARQUET_ROWS = 8_192  # read at a time; by default a file's first row group, on which `datasets` fails if it is empty
_CONTENT_KEYS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c", "blob_id")  # of what fsspec tells of a file
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "created")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NULL_LINES = tuple(re.compile(end + rb"((?:\xef\xbb\xbf)?[ \t]*)null") for end in (b"\n", b"\r"))


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
            raise _no_rows(settings)
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
        self._data = data.select_columns(columns).with_format("arrow")
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
                yield self._checked(shard)
        if not rows:
            raise _no_rows(self.settings)
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
        for shard in self._cursor:
            self._next = shard.index + 1
            if shard.index == index:
                return self._checked(shard)
        self._cursor = None
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
        return self._checked(Shard(index, start, table))

    def _stream(self) -> Iterator[Shard]:
        first_row = 0
        with self._told():
            for index, table in enumerate(self._data.iter(batch_size=self.settings.shard_rows)):
                yield Shard(index, first_row, table)
                first_row += table.num_rows

    def _checked(self, shard: Shard) -> Shard:
        """The shard with the types that all shards have: files of a stream may differ in what they make of a column."""
        schema = self.features.arrow_schema
        if shard.table.schema.equals(schema):
            return shard
        columns = []
        for field in schema:
            column = shard.table[field.name]
            try:
                columns.append(column if column.type == field.type else column.cast(field.type))
            except pa.ArrowException as error:
                raise DatasetError(
                    f"{self.settings.path}: the column {field.name!r} is {column.type} in rows {shard.first_row} to"
                    f" {shard.first_row + shard.table.num_rows - 1}, but {field.type} before ({_reason(error)}); mend"
                    " the input, or leave the column out of dataset.keep_columns"
                ) from error
        return replace(shard, table=pa.table(columns, schema=schema))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except LengthwiseError:
            raise
        except Exception as error:  # readers raise whatever their format's library raises
            raise DatasetError(f"{self.settings.path}: the rows cannot be read ({_reason(error)})") from error


def open_dataset(settings: DatasetSettings, fingerprint: str | None = None) -> Source:
    """Open the dataset that the settings name.

    Args:
        fingerprint: of the input, where it is known already, so that its files need not be read for it.

    Raises:
        DatasetError: there is no such dataset, split or column, or it cannot be read.
    """
    if "://" in settings.path:
        return _open_url(settings, fingerprint)
    path = Path(settings.path).expanduser()
    if path.is_dir() and any((path / name).exists() for name in _SAVED_TO_DISK):
        data = _load_saved(path, settings)
        return Source(data, fingerprint or _files_fingerprint(_visible_files(path), path, settings), settings)
    files = _local_files(settings)
    if files is None:
        return _open_hub(settings, fingerprint)
    fingerprint = fingerprint or _files_fingerprint(files, path, settings)
    return Source(_load_files(path, files, fingerprint, settings), fingerprint, settings)


def _local_files(settings: DatasetSettings) -> list[Path] | None:
    """The local files that `dataset.path` names, or None where it is a name on the hub."""
    path = Path(settings.path).expanduser()
    if path.is_dir():
        return _visible_files(path)
    if path.is_file():  # its name may hold what a glob would read as a pattern
        return [path]
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
    if matches:
        return matches
    if _HUB_NAME.fullmatch(settings.path) and _format_of(path) is None:
        return None
    raise DatasetError(
        f"{settings.path}: there is no such file or folder (looked in {Path.cwd()}); set dataset.path to a file,"
        " a folder, a glob or a hub name"
    )


def _visible_files(folder: Path) -> list[Path]:
    paths = sorted(folder.rglob("*"))
    return [
        path
        for path in paths
        if path.is_file() and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]


def _ending(path: Path) -> str:
    """A file's ending in lower case, that of a compressed file being the one before."""
    while path.suffix.lower() in _COMPRESSED:
        path = path.with_suffix("")
    return path.suffix.lower()


def _format_of(path: Path) -> str | None:
    return _FORMATS.get(_ending(path))


def _load_saved(path: str | Path, settings: DatasetSettings) -> datasets.Dataset | datasets.IterableDataset:
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever the reader raises on a damaged folder
        raise DatasetError(f"{path}: the saved dataset cannot be read ({_reason(error)})") from error
    if isinstance(data, datasets.DatasetDict):
        if settings.split not in data:
            raise DatasetError(
                f"{path}: there is no split {settings.split!r}; set dataset.split to one of {list(data)}"
            )
        data = data[settings.split]
    return data.to_iterable_dataset() if settings.streaming else data


def _load_files(
    path: Path, files: list[Path], fingerprint: str, settings: DatasetSettings
) -> datasets.Dataset | datasets.IterableDataset:
    """Files of one format; those with another ending are left out, unless all have another one."""
    cache = _cache(fingerprint)
    formats = {_format_of(file) for file in files} - {None}
    known = [file for file in files if _format_of(file) in formats]
    if path.is_dir() and not settings.format and _card_names_files(path):
        kind = formats.pop() if len(formats) == 1 else None
        return _load(settings, str(path), cache_dir=cache, **_read_options(kind, known, settings))
    kind = _one_format(files, settings)
    known = [file for file in files if _format_of(file) == kind]
    if not any(file.stat().st_size for file in files):
        raise _no_rows(settings)
    splits = _folder_splits(path, kind, settings) if path.is_dir() else {"train": files}
    chosen = {split: [file for file in found if _format_of(file) == kind] or found for split, found in splits.items()}
    data_files = {split: [glob.escape(str(file)) for file in found] for split, found in chosen.items()}
    return _load(settings, kind, data_files=data_files, cache_dir=cache, **_read_options(kind, known, settings))


def _cache(fingerprint: str) -> str:
    import datasets

    return str(Path(datasets.config.HF_DATASETS_CACHE) / "lengthwise" / fingerprint)


def _one_format(files: list[Path], settings: DatasetSettings) -> str:
    """How files are read: as the settings say, or else by the one known ending that they have."""
    formats = {_format_of(file) for file in files} - {None}
    kind = settings.format or (formats.pop() if len(formats) == 1 else None)
    if kind is None:
        found = (
            f"files of several kinds ({', '.join(sorted(map(str, formats)))})" if formats else "no file of a known kind"
        )
        raise DatasetError(
            f"{settings.path}: {found}; set dataset.format to one of {', '.join(sorted(set(_FORMATS.values())))}"
        )
    return kind


def _folder_splits(path: Path, kind: str, settings: DatasetSettings) -> dict[str, list[Path]]:
    """A folder's files by split, as `datasets` reads it out of their names."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(kind, data_dir=glob.escape(str(path)))
    except Exception as error:  # whatever the library raises on a folder that it can make nothing of
        raise DatasetError(f"{settings.path}: the folder cannot be read ({_reason(error)})") from error
    return {str(split): [Path(file) for file in files] for split, files in builder.config.data_files.items()}


def _read_options(kind: str | None, files: list[Path], settings: DatasetSettings) -> dict[str, Any]:
    if kind == "text":
        return {"encoding": "utf-8-sig"}  # a byte order mark is no part of the first line
    if kind == "parquet":
        return {"batch_size": _PARQUET_ROWS}
    if kind != "csv":
        return {}
    options = {"keep_default_na": False, "na_values": [""], "converters": {settings.text_column: _cell_text}}
    return {**options, "sep": "\t"} if {_ending(file) for file in files} == {".tsv"} else options


def _cell_text(cell: str) -> str | None:
    return cell or None


def _card_names_files(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and "\ndata_files:" in re.sub(r"\n[ -]+", "\n", card.read_text("utf-8", "replace"))


def _open_url(settings: DatasetSettings, known: str | None) -> Source:
    """The file, glob or folder at one of fsspec's URLs; all its files are of the split train."""
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(settings.path)
        if "file" in (fs.protocol, *fs.protocol):
            return open_dataset(settings.model_copy(update={"path": root}), known)
        files = _files_at(fs, root)
    except LengthwiseError:
        raise
    except Exception as error:  # clients of object stores have exceptions of their own
        raise DatasetError(
            f"{settings.path}: cannot be opened ({_reason(error)}); check dataset.path, the credentials in the"
            " environment, and that the package for this protocol is installed"
        ) from error
    if not files:
        raise DatasetError(f"{settings.path}: there is no such file or folder; set dataset.path to one, or to a glob")
    fingerprint = known or _objects_fingerprint(files, root, settings)
    paths = [Path(name) for name in files]
    if any(path.name in _SAVED_TO_DISK and path.parent == Path(root) for path in paths):
        return Source(_load_saved(settings.path, settings), fingerprint, settings)
    kind = _one_format(paths, settings)
    chosen = [name for name in files if _format_of(Path(name)) == kind] or list(files)
    urls = [glob.escape(fs.unstrip_protocol(name)) for name in chosen]
    options = _read_options(kind, [Path(name) for name in chosen], settings)
    return Source(
        _load(settings, kind, data_files={"train": urls}, cache_dir=_cache(fingerprint), **options),
        fingerprint,
        settings,
    )


def _files_at(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    """What the file system knows of each visible file, by its path; sorted."""
    fs.invalidate_cache()
    if fs.isfile(root):
        found = {root: fs.info(root)}
    elif fs.isdir(root):
        below = fs.find(root, detail=True)
        found = {
            name: info
            for name, info in below.items()
            if not any(part.startswith((".", "_")) for part in Path(name).relative_to(root).parts)
        }
    else:
        found = {name: info for name, info in fs.glob(root, detail=True).items() if info.get("type") == "file"}
    return dict(sorted(found.items()))


def _objects_fingerprint(files: dict[str, dict[str, Any]], root: str, settings: DatasetSettings) -> str:
    """A hash of names and of what the file system says of the contents, or else of when they were written."""
    digest = hashlib.sha256(f"{settings.format} {settings.split}\n".encode())
    for name, info in files.items():
        relative = name.removeprefix(root).lstrip("/") or Path(name).name
        contents = [info[key] for key in _CONTENT_KEYS if info.get(key)]
        version = contents or [info[key] for key in _TIME_KEYS if info.get(key)]
        digest.update(f"{relative} {info.get('size')} {version}\n".encode())
    return digest.hexdigest()


def _open_hub(settings: DatasetSettings, known: str | None) -> Source:
    import datasets

    try:
        builder = datasets.load_dataset_builder(settings.path, settings.name, revision=settings.revision)
    except Exception as error:  # the hub client has many ways to say that it found nothing
        raise DatasetError(
            f"{settings.path}: neither a local file or folder nor a dataset that the hub gives ({_reason(error)});"
            " check dataset.path, dataset.name, dataset.revision and the network"
        ) from error
    found = hashlib.sha256(f"{settings.path} {builder.config.name} {builder.hash} {settings.split}".encode())
    data = _load(settings, settings.path, settings.name, revision=settings.revision)
    return Source(data, known or found.hexdigest(), settings)


def _load(settings: DatasetSettings, *arguments: Any, **options: Any) -> datasets.Dataset | datasets.IterableDataset:
    import datasets
    from datasets.packaged_modules.json import json as json_reader

    json_reader.paj = _JsonReader
    try:
        return datasets.load_dataset(*arguments, split=settings.split, streaming=settings.streaming, **options)
    except Exception as error:  # readers raise whatever their format's library raises
        raise DatasetError(
            f"{settings.path}: split {settings.split!r} cannot be loaded ({_reason(error)});"
            " check dataset.split, dataset.format and the data"
        ) from error


class _JsonReader:
    """Stands in for pyarrow.json within `datasets`: it kills the process where a block of lines begins with null.

    See github.com/apache/arrow/issues/47409. A row that is null has no values, which is what an empty object says too.
    """

    ReadOptions = pyarrow.json.ReadOptions

    @staticmethod
    def read_json(file: io.BytesIO, **options: Any) -> pa.Table:
        """The rows of some lines of JSON."""
        data = b"\n" + file.read()
        for pattern in _NULL_LINES:
            data = pattern.sub(lambda match: match[0][:-4] + b"{  }", data)
        return pyarrow.json.read_json(io.BytesIO(data[1:]), **options)


def _files_fingerprint(files: list[Path], root: Path, settings: DatasetSettings) -> str:
    digest = hashlib.sha256(f"{settings.format} {settings.split}\n".encode())
    for file in files:
        name = file.relative_to(root).as_posix() if root.is_dir() else file.name
        digest.update(f"{name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _features_of_first_rows(data: datasets.IterableDataset, settings: DatasetSettings) -> datasets.Features:
    """The types of a stream that does not declare them."""
    import datasets

    try:
        table = next(iter(data.with_format("arrow").iter(batch_size=1_000)), None)
    except Exception as error:  # readers raise whatever their format's library raises
        raise DatasetError(f"{settings.path}: the rows cannot be read ({_reason(error)})") from error
    if table is None or not table.num_rows:
        raise _no_rows(settings)
    return datasets.Features.from_arrow_schema(table.schema)


def _no_rows(settings: DatasetSettings) -> DatasetError:
    return DatasetError(f"{settings.path}: split {settings.split!r} has no rows; nothing can be done with it")


def _decoded(encoded: bytes | None) -> str | None:
    try:
        return None if encoded is None else encoded.decode()
    except UnicodeDecodeError:
        return None


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: readers wrap the message that says what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
