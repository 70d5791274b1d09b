"""Read files with `datasets`: which reader a file's name asks for, with which options, and what it says on failing.

Notable decisions:
- In a CSV file only an empty cell is null, and a text is what stands there: pandas would also take "NA", "None"
  or "null" for nulls, and "007" for 7. So is a text of JSON that looks like a time: pyarrow would write it anew.
- `datasets` knows a local file by its path and time stamp alone, and would give the old rows of a file that was
  replaced by one of the same age; its cache of files is therefore kept apart by the input's fingerprint.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.json

from lengthwise.config import DatasetSettings
from lengthwise.errors import DatasetError

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
SAVED_TO_DISK = ("state.json", "dataset_dict.json")
_PARQUET_ROWS = 8_192  # read at a time; by default a file's first row group, on which `datasets` fails if it is empty
_NULL_LINES = tuple(re.compile(end + rb"((?:\xef\xbb\xbf)?[ \t]*)null") for end in (b"\n", b"\r"))


def _ending(file: str | Path) -> str:
    """A file's ending in lower case, that of a compressed file being the one before."""
    path = Path(file)
    while path.suffix.lower() in _COMPRESSED:
        path = path.with_suffix("")
    return path.suffix.lower()


def format_of(file: str | Path) -> str | None:
    """The format that a file's name says it has."""
    return _FORMATS.get(_ending(file))


def one_format(files: Sequence[str | Path], settings: DatasetSettings) -> str:
    """How files are read: as the settings say, or else by the one known ending that they have."""
    formats = {format_of(file) for file in files} - {None}
    kind = settings.format or (formats.pop() if len(formats) == 1 else None)
    if kind is None:
        found = (
            f"files of several kinds ({', '.join(sorted(map(str, formats)))})" if formats else "no file of a known kind"
        )
        raise DatasetError(
            f"{settings.path}: {found}; set dataset.format to one of {', '.join(sorted(set(_FORMATS.values())))}"
        )
    return kind


def load(settings: DatasetSettings, *arguments: Any, **options: Any) -> datasets.Dataset | datasets.IterableDataset:
    """`datasets.load_dataset` of the chosen split."""
    import datasets
    from datasets.packaged_modules.json import json as json_reader

    json_reader.paj = _JsonReader
    try:
        return datasets.load_dataset(*arguments, split=settings.split, streaming=settings.streaming, **options)
    except Exception as error:  # readers raise whatever their format's library raises
        raise DatasetError(
            f"{settings.path}: split {settings.split!r} cannot be loaded ({reason(error)});"
            " check dataset.split, dataset.format and the data"
        ) from error


def load_saved(path: str | Path, settings: DatasetSettings) -> datasets.Dataset | datasets.IterableDataset:
    """The chosen split of a folder that `save_to_disk` wrote."""
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever the reader raises on a damaged folder
        raise DatasetError(f"{path}: the saved dataset cannot be read ({reason(error)})") from error
    if isinstance(data, datasets.DatasetDict):
        if settings.split not in data:
            raise DatasetError(
                f"{path}: there is no split {settings.split!r}; set dataset.split to one of {list(data)}"
            )
        data = data[settings.split]
    return data.to_iterable_dataset() if settings.streaming else data


def folder_splits(folder: str, settings: DatasetSettings, visible: set[str]) -> dict[str, list[str]]:
    """The visible files of a folder, or of a URL that is one, by split, as `datasets` reads it out of their names."""
    from datasets.data_files import get_data_patterns, resolve_pattern

    base = glob.escape(folder)
    splits = {}
    try:
        for split, patterns in get_data_patterns(base).items():
            found: dict[str, None] = {}  # a file that several patterns name is there once
            for pattern in patterns:
                with contextlib.suppress(FileNotFoundError):  # nothing has such a name
                    found.update(dict.fromkeys(resolve_pattern(pattern, base)))
            splits[str(split)] = [file for file in found if file in visible]
    except Exception as error:  # whatever the library raises on a folder that it can make nothing of
        raise DatasetError(f"{settings.path}: the folder cannot be read ({reason(error)})") from error
    splits = {split: files for split, files in splits.items() if files}
    if not splits:
        raise DatasetError(f"{settings.path}: none of its files is data by its name; set dataset.path to the files")
    return splits


def files_of(kind: str, splits: dict[str, list[str]]) -> dict[str, list[str]]:
    """The files of a format, by split; those with another ending are left out, unless all have another one."""
    return {split: [file for file in files if format_of(file) == kind] or files for split, files in splits.items()}


def files_read(splits: dict[str, list[str]], settings: DatasetSettings) -> list[str]:
    """The files that the chosen split is read from: all, where it is a part or a sum of others ("train[:10%]")."""
    return splits.get(settings.split) or [file for files in splits.values() for file in files]


def load_files(
    kind: str, splits: dict[str, list[str]], fingerprint: str, settings: DatasetSettings
) -> datasets.Dataset | datasets.IterableDataset:
    """The chosen split of files of one format."""
    return load(
        settings,
        kind,
        data_files={split: [glob.escape(file) for file in files] for split, files in splits.items()},
        cache_dir=cache_folder(fingerprint),
        **read_options(kind, [file for files in splits.values() for file in files], settings),
    )


def fingerprint_of(versions: dict[str, str], settings: DatasetSettings) -> str:
    """A hash of files, in the order in which they are read: of how, of their names and of what their contents are.

    Where the folder that holds them all lies makes no difference.
    """
    digest = hashlib.sha256(f"{settings.format} {settings.split}\n".encode())
    parent = os.path.commonpath([os.path.dirname(file) for file in versions])
    for file, version in versions.items():
        digest.update(f"{os.path.relpath(file, parent)} {version}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def cache_folder(fingerprint: str) -> str:
    """Where `datasets` keeps what it made of an input's files."""
    import datasets

    return str(Path(datasets.config.HF_DATASETS_CACHE) / "lengthwise" / fingerprint)


def read_options(kind: str | None, files: Sequence[str | Path], settings: DatasetSettings) -> dict[str, Any]:
    """What a reader is told so that a text is what stands in the file."""
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


class _JsonReader:
    """Stands in for pyarrow.json within `datasets`: it kills the process where a block of lines begins with null.

    See github.com/apache/arrow/issues/47409. A row that is null has no values, which is what an empty object says too.
    A text that looks like a time is read as the text that it is.
    """

    ReadOptions = pyarrow.json.ReadOptions

    @staticmethod
    def read_json(file: io.BytesIO, **options: Any) -> pa.Table:
        """The rows of some lines of JSON."""
        data = b"\n" + file.read()
        for pattern in _NULL_LINES:
            data = pattern.sub(lambda match: match[0][:-4] + b"{  }", data)
        table = pyarrow.json.read_json(io.BytesIO(data[1:]), **options)
        times = [(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)]
        if not times:
            return table
        written = pyarrow.json.ParseOptions(explicit_schema=pa.schema(times))
        return pyarrow.json.read_json(io.BytesIO(data[1:]), parse_options=written, **options)


def no_rows(settings: DatasetSettings) -> DatasetError:
    """The error of a dataset in which there is nothing."""
    return DatasetError(f"{settings.path}: split {settings.split!r} has no rows; nothing can be done with it")


def reason(error: BaseException) -> str:
    """The innermost cause in one line: readers wrap the message that says what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
