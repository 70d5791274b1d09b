"""Load files with `datasets`: the format of a file, the reader's options, the splits of a folder, and its errors.

- In a CSV file only an empty cell is null, and a text is exactly what the file holds: pandas would read "NA", "None"
  and "null" as nulls, and "007" as 7. The same holds for JSON strings that look like times (`compat.read_json_lines`).
- `datasets` caches a local file by its path and time stamp, and would return the old rows of a file that was replaced
  by one of the same age. So its cache is kept apart by the input's fingerprint.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise.config import DatasetSettings
from lengthwise.errors import DatasetError
from lengthwise.util.compat import patch_json_reader

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
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
SAVED_DATASET_FILES = ("state.json", "dataset_dict.json")  # of `save_to_disk`
_PARQUET_BATCH_ROWS = 8_192  # the default, a file's first row group, makes `datasets` fail if that group is empty


def file_extension(file: str | Path) -> str:
    """A file's extension in lower case, without that of a compression."""
    path = Path(file)
    while path.suffix.lower() in _COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def file_format(file: str | Path) -> str | None:
    """The format that a file's extension names: parquet, json, csv, text or arrow; None for any other extension."""
    return _FORMATS.get(file_extension(file))


def common_format(files: Sequence[str | Path], settings: DatasetSettings) -> str:
    """`dataset.format`, or the one format of the files.

    Raises:
        DatasetError: the files have several formats, or none that is known.
    """
    formats = {file_format(file) for file in files} - {None}
    name = settings.format or (formats.pop() if len(formats) == 1 else None)
    if name is None:
        found = (
            f"files of several formats ({', '.join(sorted(map(str, formats)))})"
            if formats
            else "no file of a known format"
        )
        raise DatasetError(
            f"{settings.path}: {found}; set dataset.format to one of {', '.join(sorted(set(_FORMATS.values())))}"
        )
    return name


def load_split(
    settings: DatasetSettings, *arguments: Any, **options: Any
) -> datasets.Dataset | datasets.IterableDataset:
    """`datasets.load_dataset` of `dataset.split`.

    Raises:
        DatasetError: `datasets` cannot load it.
    """
    import datasets

    patch_json_reader()
    try:
        return datasets.load_dataset(*arguments, split=settings.split, streaming=settings.streaming, **options)
    except Exception as error:  # readers raise exceptions of any type
        raise DatasetError(
            f"{settings.path}: split {settings.split!r} cannot be loaded ({describe_error(error)});"
            " check dataset.split, dataset.format and the data"
        ) from error


def load_saved_dataset(path: str | Path, settings: DatasetSettings) -> datasets.Dataset | datasets.IterableDataset:
    """`dataset.split` of a folder that `save_to_disk` wrote.

    Raises:
        DatasetError: the folder is damaged, or there is no such split.
    """
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # on a damaged folder, exceptions of any type
        raise DatasetError(f"{path}: the saved dataset cannot be read ({describe_error(error)})") from error
    if isinstance(data, datasets.DatasetDict):
        if settings.split not in data:
            raise DatasetError(
                f"{path}: there is no split {settings.split!r}; set dataset.split to one of {list(data)}"
            )
        data = data[settings.split]
    return data.to_iterable_dataset() if settings.streaming else data


def find_splits(folder: str, settings: DatasetSettings, visible: set[str]) -> dict[str, list[str]]:
    """The visible files of a folder (a path or URL) by split, which `datasets` derives from their names.

    Raises:
        DatasetError: `datasets` cannot list the folder, or finds no data file in it.
    """
    from datasets.data_files import get_data_patterns, resolve_pattern

    base = glob.escape(folder)
    splits = {}
    try:
        for split, patterns in get_data_patterns(base).items():
            found: dict[str, None] = {}  # several patterns may match one file
            for pattern in patterns:
                with contextlib.suppress(FileNotFoundError):  # the pattern matches no file
                    found.update(dict.fromkeys(resolve_pattern(pattern, base)))
            splits[str(split)] = [file for file in found if file in visible]
    except Exception as error:  # on a folder without data files, exceptions of any type
        raise DatasetError(f"{settings.path}: the folder cannot be read ({describe_error(error)})") from error
    splits = {split: files for split, files in splits.items() if files}
    if not splits:
        raise DatasetError(f"{settings.path}: no file is a data file by its name; set dataset.path to the files")
    return splits


def select_format(format_name: str, splits: dict[str, list[str]]) -> dict[str, list[str]]:
    """The files of a format by split; all files of a split that has none of the format."""
    return {
        split: [file for file in files if file_format(file) == format_name] or files for split, files in splits.items()
    }


def select_split(splits: dict[str, list[str]], settings: DatasetSettings) -> list[str]:
    """The files that `dataset.split` is read from; all files if it is an expression such as "train[:10%]"."""
    return splits.get(settings.split) or [file for files in splits.values() for file in files]


def load_files(
    format_name: str, splits: dict[str, list[str]], fingerprint: str, settings: DatasetSettings
) -> datasets.Dataset | datasets.IterableDataset:
    """`dataset.split` of files of one format.

    Raises:
        DatasetError: `datasets` cannot load it.
    """
    return load_split(
        settings,
        format_name,
        data_files={split: [glob.escape(file) for file in files] for split, files in splits.items()},
        cache_dir=cache_folder(fingerprint),
        **read_options(format_name, [file for files in splits.values() for file in files], settings),
    )


def fingerprint_files(versions: dict[str, str], settings: DatasetSettings) -> str:
    """sha256 (hex) of files, in reading order: of format, split, names and versions.

    Names are relative to the common parent, so that a moved folder is the same input.

    Args:
        versions: a string per path that changes with the file's contents.
    """
    digest = hashlib.sha256(f"{settings.format} {settings.split}\n".encode())
    parent = os.path.commonpath([os.path.dirname(file) for file in versions])
    for file, version in versions.items():
        digest.update(f"{os.path.relpath(file, parent)} {version}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def cache_folder(fingerprint: str) -> str:
    """The folder of the `datasets` cache for an input."""
    import datasets

    return str(Path(datasets.config.HF_DATASETS_CACHE) / "lengthwise" / fingerprint)


def read_options(format_name: str | None, files: Sequence[str | Path], settings: DatasetSettings) -> dict[str, Any]:
    """Options of the `datasets` reader of a format with which a text is exactly what the file holds."""
    if format_name == "text":
        return {"encoding": "utf-8-sig"}  # drops a byte order mark
    if format_name == "parquet":
        return {"batch_size": _PARQUET_BATCH_ROWS}
    if format_name != "csv":
        return {}
    options = {"keep_default_na": False, "na_values": [""], "converters": {settings.text_column: _parse_cell}}
    return {**options, "sep": "\t"} if {file_extension(file) for file in files} == {".tsv"} else options


def _parse_cell(cell: str) -> str | None:
    return cell or None


def no_rows_error(settings: DatasetSettings) -> DatasetError:
    """The error for an empty dataset."""
    return DatasetError(
        f"{settings.path}: split {settings.split!r} has no rows; set dataset.path and dataset.split to one that has"
    )


def describe_error(error: BaseException) -> str:
    """Type and message of an error's innermost cause, in one line: readers wrap the message that matters."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
