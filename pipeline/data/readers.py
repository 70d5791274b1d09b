"""What all inputs share: the format of files, the splits of a folder, fingerprints, the cache's folder and errors.

- Files are read by this package's own readers (`lengthwise.data.builder`). `datasets` reads hub datasets, folders of
  `save_to_disk`, and the files of a dataset card with options that only its readers have. `read_options` and
  `compat.read_json_lines` then keep a text what the file holds: pandas would read "NA" as null and "007" as 7.
- `datasets` caches a local file by its path and time stamp, and would return the old rows of a file that was replaced
  by one of the same age. So the cache is kept apart by the input's fingerprint.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import hashlib
import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lengthwise.config import DatasetSettings
from lengthwise.data.files import FORMATS, DataFile, describe_archives, expand_archives, file_extension, file_format
from lengthwise.errors import ColumnError, DatasetError, LengthwiseError, NoRowsError
from lengthwise.util.compat import patch_json_reader

if TYPE_CHECKING:
    import datasets

SAVED_DATASET_FILES = ("state.json", "dataset_dict.json")  # of `save_to_disk`
SETTINGS_FILES = (  # which `datasets` leaves out of a folder
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dummy_data.zip",
    "dataset_dict.json",
)
_READER_VERSION = 4  # raised when the same file gives other rows
_USED_BY = {"encoding": ("csv", "json", "text"), "field": ("json",), "csv": ("csv",)}
_SELECTIONS = {
    "name": "selects a configuration of a hub dataset or of a folder's dataset card",
    "revision": "selects a commit of a hub dataset",
    "format": "is for files",
}
_PARQUET_BATCH_ROWS = 8_192  # the default, a file's first row group, makes `datasets` fail if that group is empty


def common_format(paths: Sequence[str], settings: DatasetSettings) -> str:
    """`dataset.format`, or the one format of the files.

    Raises:
        DatasetError: the files have several formats, or none that is known.
    """
    if settings.format is not None:
        return settings.format
    formats = {file_format(file.name) for file in expand_archives(paths, settings)} - {None}
    if len(formats) == 1:
        return str(formats.pop())
    if not formats and (problem := describe_archives(paths)) is not None:
        raise DatasetError(f"{settings.path}: {problem}")
    found = "no file of a known format"
    if formats:
        found = f"files of several formats ({', '.join(sorted(map(str, formats)))})"
    raise DatasetError(f"{settings.path}: {found}; set dataset.format to one of {', '.join(FORMATS)}")


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
        raise split_error(error, settings) from error


def split_error(error: Exception, settings: DatasetSettings) -> DatasetError:
    """The error for a split that `datasets` cannot load."""
    return DatasetError(
        f"{settings.path}: split {settings.split!r} cannot be loaded ({describe_error(error)});"
        " check dataset.split, dataset.format and the data"
    )


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


def find_splits(folder: str, settings: DatasetSettings, visible: Set[str]) -> dict[str, list[str]]:
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


def check_split_files(
    splits: dict[str, list[str]], visible: Set[str], format_name: str, settings: DatasetSettings
) -> None:
    """Refuse a folder in which some files are named after splits, and others would belong to none of them.

    Raises:
        DatasetError: a data file is in no split.
    """
    chosen = {file for files in splits.values() for file in files}
    left = sorted(file for file in visible - chosen if file_format(file) == format_name)
    if left:
        named = "; ".join(f"{split}: {_name_some(files)}" for split, files in splits.items())
        raise DatasetError(
            f"{settings.path}: {_name_some(left)} would not be read, since other files have names of splits ({named});"
            " set dataset.path to a glob of the files to read, or rename them"
        )


def _name_some(files: Sequence[str]) -> str:
    names = [PurePosixPath(file).name for file in files]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def select_format(
    format_name: str, splits: dict[str, list[str]], settings: DatasetSettings
) -> dict[str, list[DataFile]]:
    """The files of a format by split, those in archives too; all files of a split that has none of the format."""
    expanded = {split: expand_archives(files, settings) for split, files in splits.items()}
    selected = {
        split: [file for file in files if file_format(file.name) == format_name] or files
        for split, files in expanded.items()
    }
    for files in selected.values():
        if (problem := describe_archives([file.path for file in files if file.member is None])) is not None:
            raise DatasetError(f"{settings.path}: {problem}")
    return selected


def select_split(splits: dict[str, list[DataFile]], settings: DatasetSettings) -> list[str]:
    """The paths that `dataset.split` is read from; all of them if it is an expression such as "train[:10%]"."""
    files = splits.get(settings.split, [file for found in splits.values() for file in found])
    return list(dict.fromkeys(file.path for file in files))


def fingerprint_files(versions: dict[str, str], settings: DatasetSettings) -> str:
    """sha256 (hex) of files, in reading order: of format, split, configuration, names and versions.

    Names are relative to the common parent, so that a moved folder is the same input.

    Args:
        versions: a string per path that changes with the file's contents.
    """
    options = f"{[settings.format, settings.split, settings.name]} {describe_options(settings)}"
    digest = hashlib.sha256(f"{_READER_VERSION} {options}\n".encode())
    parent = os.path.commonpath([os.path.dirname(file) for file in versions])
    for file, version in versions.items():
        digest.update(f"{os.path.relpath(file, parent)} {version}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def reading_options(settings: DatasetSettings) -> list[Any]:
    """The settings that decide what a file's rows are."""
    return [settings.encoding, settings.field, sorted(settings.types.items()), settings.csv.model_dump()]


def reading_record(settings: DatasetSettings) -> dict[str, Any]:
    """What decides, beside the files and the types of columns, what the rows of an input are; JSON-ready."""
    names = {"name", "split", "format", "encoding", "field", "csv"}
    return {"reader": _READER_VERSION, **settings.model_dump(mode="json", include=names, exclude_defaults=True)}


def describe_options(settings: DatasetSettings) -> str:
    """`reading_options` as a part of a fingerprint; empty if they are the defaults."""
    options = reading_options(settings)
    return "" if options == reading_options(DatasetSettings(path="")) else repr(options)


def check_options(settings: DatasetSettings, format_name: str | None, kind: str = "") -> None:
    """Refuse settings that have no effect on an input.

    Args:
        format_name: the format that this package's own readers read; None if they do not read the input.
        kind: what the input is, for the error, if it has no such format.

    Raises:
        DatasetError: a setting that is not the default is not used.
    """
    defaults = DatasetSettings(path="")
    given = {name: getattr(settings, name) for name in ("encoding", "field")}
    given = {name: value for name, value in given.items() if value != getattr(defaults, name)}
    for name, value in settings.csv:
        if value != getattr(defaults.csv, name):
            given[f"csv.{name}"] = value
    for name, value in given.items():
        formats = _USED_BY[name.partition(".")[0]]
        if format_name not in formats:
            raise DatasetError(
                f"{settings.path}: dataset.{name} is {value!r}, but {kind or f'the format {format_name}'} does not use"
                f" it; leave it out, or set dataset.format if the files are in the format {' or '.join(formats)}"
            )


def check_selection(settings: DatasetSettings, used: Sequence[str], kind: str) -> None:
    """Refuse `dataset.name`, `revision` or `format` where an input of this kind does not use it.

    Args:
        used: those that it uses.
        kind: what the input is, for the error.

    Raises:
        DatasetError: one is given that is not used.
    """
    for name, effect in _SELECTIONS.items():
        value = getattr(settings, name)
        if value is not None and name not in used:
            raise DatasetError(
                f"{settings.path}: dataset.{name} is {value!r}, but {kind} does not use it: it {effect}; leave it out,"
                " or check dataset.path"
            )


def configuration_error(names: Sequence[str], settings: DatasetSettings) -> DatasetError | None:
    """The error for a dataset of several configurations of which `dataset.name` selects none; None if it does.

    Args:
        names: of the configurations.
    """
    if settings.name in names or (settings.name is None and len(names) < 2):
        return None
    found = "is not set" if settings.name is None else f"is {settings.name!r}"
    return DatasetError(
        f"{settings.path}: dataset.name {found}, and the dataset has several configurations; set dataset.name to one"
        f" of them: {_list_names(names)}"
    )


def check_types(names: Sequence[str], settings: DatasetSettings) -> None:
    """Refuse `dataset.types` of columns that the input lacks.

    Args:
        names: all columns of the input.

    Raises:
        DatasetError: there is no such column.
    """
    for name in settings.types:
        if name not in names:
            close = _closest(name, names)
            raise DatasetError(
                f"{settings.path}: dataset.types names the column {name!r}, which there is not; the columns are"
                f" {_list_names(names)}{f' (did you mean {close!r}?)' if close is not None else ''}"
            )


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


@contextlib.contextmanager
def wrap_file_errors(file: DataFile, settings: DatasetSettings) -> Iterator[None]:
    """Turn any error of reading a file into a DatasetError that names it."""
    try:
        yield
    except LengthwiseError:
        raise
    except Exception as error:  # damaged files and lost connections raise exceptions of any type
        raise unreadable_error(error, file, settings) from error


def unreadable_error(error: Exception, file: DataFile | None, settings: DatasetSettings) -> DatasetError:
    """The error for a file that cannot be read, or for one of several."""
    name, by_name = ("", "") if file is None else (f"{file}: ", describe_format(file, settings))
    return DatasetError(
        f"{settings.path}: the rows cannot be read ({name}{describe_error(error)}){by_name}; check the file, and"
        " dataset.format"
    )


def describe_format(file: DataFile, settings: DatasetSettings) -> str:
    """For the error of a file whose extension names another format than `dataset.format`; empty otherwise."""
    by_name = file_format(file.name)
    if settings.format is None or by_name in (None, settings.format):
        return ""
    return f"; dataset.format is {settings.format!r}, but the extension is that of the format {by_name}"


def no_rows_error(settings: DatasetSettings, detail: str = "") -> NoRowsError:
    """The error for an empty dataset.

    Args:
        detail: what its files hold instead of rows.
    """
    return NoRowsError(
        f"{settings.path}: split {settings.split!r} has no rows; set dataset.path and dataset.split to one that has"
        f"{f' ({detail})' if detail else ''}"
    )


def missing_column_error(
    missing: Sequence[str], names: Sequence[str], settings: DatasetSettings, hint: str = ""
) -> ColumnError:
    """The error for columns that the input lacks."""
    close = [_closest(name, names) for name in missing]
    meant = ", ".join(repr(name) for name in close if name is not None)
    none = "there is no column" if len(missing) == 1 else "there are no columns"
    return ColumnError(
        f"{settings.path}: {none} {', '.join(map(repr, missing))}; the columns are {_list_names(names)}",
        missing,
        "set dataset.text_column and dataset.keep_columns to some of them"
        f"{f' (did you mean {meant}?)' if meant else ''}{hint}",
    )


def _closest(name: str, names: Sequence[str]) -> str | None:
    lower = {each.casefold().strip(): each for each in names}
    return lower.get(name.casefold().strip()) or next(iter(difflib.get_close_matches(name, names, 1)), None)


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, list(names)[:50])) + (f" and {len(names) - 50} more" if len(names) > 50 else "")


def describe_error(error: BaseException) -> str:
    """Type and message of an error's innermost cause, in one line: readers wrap the message that matters."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def known_cause(error: BaseException | None) -> LengthwiseError | None:
    """This project's own error among an error's causes, if there is one: libraries wrap it."""
    while error is not None:
        if isinstance(error, LengthwiseError):
            return error
        error = error.__cause__ or error.__context__
    return None
