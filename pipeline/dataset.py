"""Open a `datasets` dataset and cut it into shards: contiguous row ranges, in the dataset's own order.

Notable decisions:
- Only the columns that are needed are read, as Arrow tables, which is an order of magnitude faster than rows of
  Python objects (github.com/huggingface/datasets/issues/5821).
- Local files are fingerprinted by their contents, so a touched or moved file is the same input and a changed
  line is another one. Hub datasets are fingerprinted by the commit that they were resolved to.
- `datasets` knows a local file by its path and time stamp alone, and would give the old rows of a file that was
  replaced by one of the same age; its cache of local files is therefore kept apart by fingerprint.
- In a CSV file only an empty cell is null, and a text is what stands there: pandas would also take "NA", "None"
  or "null" for nulls, and "007" for 7.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.config import DatasetSettings
from pipeline.errors import DatasetError
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
        num_rows: how many rows there are; None for a stream.
        fingerprint: a hash of the rows' origin; equal for equal inputs.
        features: the types of the text column and the kept columns.
    """

    def __init__(
        self, data: datasets.Dataset | datasets.IterableDataset, fingerprint: str, settings: DatasetSettings
    ) -> None:
        import datasets

        self.settings = settings
        self.fingerprint = fingerprint
        self.num_rows = len(data) if isinstance(data, datasets.Dataset) else None
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

    @property
    def num_shards(self) -> int | None:
        """How many shards there are; None for a stream."""
        return None if self.num_rows is None else -(-self.num_rows // self.settings.shard_rows)

    def shards(self) -> Iterator[Shard]:
        """The shards, in order.

        Raises:
            DatasetError: the input breaks off or cannot be read.
        """
        first_row = 0
        for index, table in enumerate(self._tables()):
            yield Shard(index, first_row, table)
            first_row += table.num_rows
        if not first_row:
            raise _no_rows(self.settings)

    def texts(self) -> Iterator[str]:
        """The texts that there are, in order; what is null or not UTF-8 is left out."""
        for shard in self.shards():
            for encoded in shard.table[self.settings.text_column].cast(pa.large_binary()).to_pylist():
                text = _decoded(encoded)
                if text is not None:
                    yield text

    def _tables(self) -> Iterator[pa.Table]:
        rows = self.settings.shard_rows
        try:
            if self.num_rows is None:
                yield from self._data.iter(batch_size=rows)
            else:
                for start in range(0, self.num_rows, rows):
                    yield self._data[start : start + rows]
        except Exception as error:  # readers raise whatever their format's library raises
            raise DatasetError(f"{self.settings.path}: the rows cannot be read ({_reason(error)})") from error


def open_dataset(settings: DatasetSettings) -> Source:
    """Open the dataset that the settings name.

    Raises:
        DatasetError: there is no such dataset, split or column, or it cannot be read.
    """
    path = Path(settings.path).expanduser()
    if path.is_dir() and any((path / name).exists() for name in _SAVED_TO_DISK):
        data = _load_saved(path, settings)
        return Source(data, _files_fingerprint(_visible_files(path), path, settings), settings)
    files = _local_files(settings)
    if files is None:
        return _open_hub(settings)
    fingerprint = _files_fingerprint(files, path, settings)
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


def _load_saved(path: Path, settings: DatasetSettings) -> datasets.Dataset | datasets.IterableDataset:
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
    import datasets

    cache = str(Path(datasets.config.HF_DATASETS_CACHE) / "lengthwise" / fingerprint)
    formats = {_format_of(file) for file in files} - {None}
    kind = settings.format or (formats.pop() if len(formats) == 1 else None)
    known = [file for file in files if _format_of(file) == kind]
    if path.is_dir() and not settings.format and _card_names_files(path):
        return _load(settings, str(path), cache_dir=cache, **_read_options(kind, known, settings))
    if kind is None:
        found = (
            f"files of several kinds ({', '.join(sorted(map(str, formats)))})" if formats else "no file of a known kind"
        )
        raise DatasetError(
            f"{settings.path}: {found}; set dataset.format to one of {', '.join(sorted(set(_FORMATS.values())))}"
        )
    if not any(file.stat().st_size for file in files):
        raise _no_rows(settings)
    splits = _folder_splits(path, kind, settings) if path.is_dir() else {"train": files}
    chosen = {split: [file for file in found if _format_of(file) == kind] or found for split, found in splits.items()}
    data_files = {split: [glob.escape(str(file)) for file in found] for split, found in chosen.items()}
    return _load(settings, kind, data_files=data_files, cache_dir=cache, **_read_options(kind, known, settings))


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


def _open_hub(settings: DatasetSettings) -> Source:
    import datasets

    try:
        builder = datasets.load_dataset_builder(settings.path, settings.name, revision=settings.revision)
    except Exception as error:  # the hub client has many ways to say that it found nothing
        raise DatasetError(
            f"{settings.path}: neither a local file or folder nor a dataset that the hub gives ({_reason(error)});"
            " check dataset.path, dataset.name, dataset.revision and the network"
        ) from error
    fingerprint = hashlib.sha256(f"{settings.path} {builder.config.name} {builder.hash} {settings.split}".encode())
    return Source(
        _load(settings, settings.path, settings.name, revision=settings.revision), fingerprint.hexdigest(), settings
    )


def _load(settings: DatasetSettings, *arguments: Any, **options: Any) -> datasets.Dataset | datasets.IterableDataset:
    import datasets

    try:
        return datasets.load_dataset(*arguments, split=settings.split, streaming=settings.streaming, **options)
    except Exception as error:  # readers raise whatever their format's library raises
        raise DatasetError(
            f"{settings.path}: split {settings.split!r} cannot be loaded ({_reason(error)});"
            " check dataset.split, dataset.format and the data"
        ) from error


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
