"""Open the dataset that the settings name: local files, a folder, files at a URL, or a hub dataset.

Local files are fingerprinted by their contents: a touched or moved file is the same input, a changed line is another
one. Hub datasets are fingerprinted by the commit that they resolve to.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lengthwise.config import DatasetSettings, RunConfig
from lengthwise.data.files import file_format, is_visible
from lengthwise.data.readers import (
    SAVED_DATASET_FILES,
    SETTINGS_FILES,
    cache_folder,
    check_options,
    check_selection,
    check_split_files,
    check_types,
    common_format,
    configuration_error,
    describe_error,
    describe_options,
    find_splits,
    fingerprint_files,
    load_saved_dataset,
    load_split,
    no_rows_error,
    read_options,
    select_format,
    select_split,
)
from lengthwise.data.remote_files import RemoteFiles, find_remote_files
from lengthwise.data.source import Shard, Source
from lengthwise.errors import DatasetError, LengthwiseError
from lengthwise.util.files import file_sha256

if TYPE_CHECKING:
    import datasets

__all__ = ["Shard", "Source", "open_dataset", "open_run_dataset"]
log = logging.getLogger(__name__)
_MAX_SKIPPED = 5  # names in a warning
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def open_dataset(settings: DatasetSettings, fingerprint: str | None = None, *, keep_malformed: bool = False) -> Source:
    """Open the dataset that the settings name: local files, a folder, files at a URL, or a hub dataset.

    Args:
        fingerprint: the input's, if it is known already, so that its files are not read to compute it.
        keep_malformed: whether malformed rows of files are rows (`Shard.malformed`), rather than errors.

    Raises:
        DatasetError: there is no such dataset, split or column, or it cannot be read.
    """
    if not settings.path.strip():
        raise DatasetError("dataset.path is empty; set it to a file, a folder, a glob or a hub name")
    if "://" in settings.path:
        return _open_url(settings, fingerprint, keep_malformed)
    try:
        path = Path(settings.path)
        if settings.path.startswith("~") and not path.exists():
            path = _expand_home(settings)
        files = _find_local_files(path, settings)
        if files is not None:
            return _open_local(path, files, settings, fingerprint, keep_malformed)
    except (OSError, ValueError) as error:  # an impossible file name
        raise DatasetError(
            f"{settings.path}: cannot be opened ({describe_error(error)}); set dataset.path to a file, a folder or a"
            " glob that can be read"
        ) from error
    return _open_hub(settings, fingerprint)


def open_run_dataset(config: RunConfig, fingerprint: str | None = None) -> Source:
    """`open_dataset` for a run: unless bad rows are errors, malformed rows are kept and marked."""
    return open_dataset(config.dataset, fingerprint, keep_malformed=config.encode.bad_rows != "error")


def _expand_home(settings: DatasetSettings) -> Path:
    """The path whose ~ or ~name is a home folder.

    Raises:
        DatasetError: there is no such user.
    """
    try:
        return Path(settings.path).expanduser()
    except RuntimeError as error:
        user = settings.path.partition("/")[0]
        raise DatasetError(
            f"{settings.path}: there is no such file here (looked in {Path.cwd()}), nor a home folder {user}; set"
            " dataset.path to a file, a folder, a glob or a hub name"
        ) from error


def _find_local_files(path: Path, settings: DatasetSettings) -> list[Path] | None:
    """The local files of `dataset.path`, sorted, a folder's "_" files included; None if it is a hub name.

    Raises:
        DatasetError: there are none.
    """
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if not _is_hidden(file, path)]
        _check_links([file for file in found if file_format(file) or settings.format], settings)
        return [file for file in found if file.is_file()]
    if path.is_file():  # before the glob: a file's name may contain a glob's special characters
        return [path]
    found = [path] if path.is_symlink() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    _check_links(found, settings)
    if matches := [file for file in found if file.is_file()]:
        return matches
    if _HUB_NAME.fullmatch(settings.path) and file_format(path) is None:
        return None
    raise DatasetError(
        f"{settings.path}: there is no such file or folder (looked in {Path.cwd()}); set dataset.path to a file,"
        " a folder, a glob or a hub name"
    )


def _check_links(files: Iterable[Path], settings: DatasetSettings) -> None:
    """Refuse links to files that are not there, as clones of git-annex and DVC have them: rows would be missing.

    Raises:
        DatasetError: there is one.
    """
    for file in files:
        if file.is_symlink() and not file.exists():
            raise DatasetError(
                f"{settings.path}: {file.name} is a link to {file.readlink()}, which is not there; get that file, or"
                " remove the link"
            )


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _open_local(
    path: Path, files: list[Path], settings: DatasetSettings, known_fingerprint: str | None, keep_malformed: bool
) -> Source:
    """Open a folder of `save_to_disk`, a folder with a dataset card, or files of one format."""
    from lengthwise.data.builder import open_files  # here, as it imports `datasets`

    if path.is_dir() and any((path / name).exists() for name in SAVED_DATASET_FILES):
        fingerprint = known_fingerprint or _fingerprint_local(files, settings)
        check_selection(settings, (), "a saved dataset")
        return _make_source(load_saved_dataset(path, settings), fingerprint, settings, "a saved dataset")
    if path.is_dir() and not settings.format and _has_data_card(path):
        fingerprint = known_fingerprint or _fingerprint_local(files, settings)
        return _open_card(path, files, settings, fingerprint, keep_malformed)
    check_selection(settings, ("format",), "an input of files")
    if path.is_dir():
        files = _visible_files(path, files, settings)
    format_name = common_format([str(file) for file in files], settings)
    if not any(file.stat().st_size for file in files):
        raise no_rows_error(settings)
    found = {"train": [str(file) for file in files]}
    if path.is_dir():
        folder = path.resolve()
        visible = {str(folder / file.relative_to(path)) for file in files}
        found = find_splits(str(folder), settings, visible)
        check_split_files(found, visible, format_name, settings)
        _warn_of_skipped(path, format_name, settings)
    splits = select_format(format_name, found, settings)
    fingerprint = known_fingerprint or _fingerprint_local(select_split(splits, settings), settings)
    return open_files(format_name, splits, fingerprint, settings, keep_bad=keep_malformed)


def _visible_files(folder: Path, files: list[Path], settings: DatasetSettings) -> list[Path]:
    """The files of a folder that are read, without what `datasets` takes for settings by its name.

    Raises:
        DatasetError: there are data files, but all have hidden names.
    """
    visible = [file for file in files if is_visible(str(file), str(folder)) and file.name not in SETTINGS_FILES]
    if visible:
        return visible
    hidden = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file_format(file)]
    if hidden:
        raise DatasetError(
            f"{settings.path}: all data files have names that begin with . or _ ({', '.join(hidden[:_MAX_SKIPPED])}),"
            " which are not read of a folder; rename them, or set dataset.path to a glob of them"
        )
    return []


def _warn_of_skipped(folder: Path, format_name: str, settings: DatasetSettings) -> None:
    """Log what a user may expect to be read of a folder, and is not."""
    skipped = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if _is_hidden(path, folder):
            continue
        if path.is_dir() and path.is_symlink():
            skipped.append(f"{name} (a link to a folder)")
        elif path.is_file() and file_format(path) == format_name and not is_visible(str(path), str(folder)):
            skipped.append(f"{name} (its path has a name that begins with _)")
        elif path.is_file() and file_format(path) == format_name and path.name in SETTINGS_FILES:
            skipped.append(f"{name} (a file of settings by its name)")
        elif path.is_file() and settings.format and file_format(path) is None and is_visible(str(path), str(folder)):
            skipped.append(f"{name} (its extension is not of the format {format_name})")
    if skipped:
        names = ", ".join(skipped[:_MAX_SKIPPED])
        more = f" and {len(skipped) - _MAX_SKIPPED} more" if len(skipped) > _MAX_SKIPPED else ""
        log.warning("%s: not read: %s%s; to read them, set dataset.path to a glob", folder, names, more)


def _has_data_card(folder: Path) -> bool:
    """Whether the folder's README.md names its data files in its YAML header."""
    card = folder / "README.md"
    return card.is_file() and "\ndata_files:" in re.sub(r"\n[ -]+", "\n", card.read_text("utf-8", "replace"))


def _open_card(
    folder: Path, files: list[Path], settings: DatasetSettings, fingerprint: str, keep_malformed: bool
) -> Source:
    """Open the data files that a folder's README.md names."""
    import datasets

    from lengthwise.data.builder import open_files, read_card

    check_selection(settings, ("name",), "a folder with a dataset card")
    try:
        card = datasets.load_dataset_builder(str(folder), settings.name)
    except Exception as error:  # on a card that names no file, exceptions of any type
        _check_configuration(str(folder), settings)
        raise DatasetError(f"{settings.path}: README.md cannot be followed ({describe_error(error)})") from error
    if (known := read_card(card, settings)) is not None:
        format_name, found, settings = known
        splits = select_format(format_name, found, settings)
        return open_files(format_name, splits, fingerprint, settings, card.info.features, keep_bad=keep_malformed)
    formats = {file_format(file) for file in files if is_visible(str(file), str(folder))} - {None}
    by_name = formats.pop() if len(formats) == 1 else None
    options = read_options(by_name, [file for file in files if file_format(file) == by_name], settings)
    data = load_split(settings, str(folder), settings.name, cache_dir=cache_folder(fingerprint), **options)
    return _make_source(data, fingerprint, settings, "this dataset card")


def _open_url(settings: DatasetSettings, known_fingerprint: str | None, keep_malformed: bool) -> Source:
    """Open the file, glob or folder at an fsspec URL."""
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(settings.path)
        if "file" in (fs.protocol, *fs.protocol):
            local = settings.model_copy(update={"path": root})
            return open_dataset(local, known_fingerprint, keep_malformed=keep_malformed)
        files = find_remote_files(fs, root)
        if not files.infos:
            raise DatasetError(
                f"{settings.path}: there is no such file or folder; set dataset.path to one, or to a glob"
            )
        return _open_remote(files, settings, known_fingerprint, keep_malformed)
    except LengthwiseError:
        raise
    except Exception as error:  # clients of object stores have exceptions of their own
        raise DatasetError(
            f"{settings.path}: cannot be opened ({describe_error(error)}); check dataset.path, the credentials in the"
            " environment, and that the package for this protocol is installed"
        ) from error


def _open_remote(
    files: RemoteFiles, settings: DatasetSettings, known_fingerprint: str | None, keep_malformed: bool
) -> Source:
    """Open a folder of `save_to_disk`, or files of one format."""
    from lengthwise.data.builder import open_files

    def fingerprint_remote(paths: Iterable[str]) -> str:
        return known_fingerprint or fingerprint_files({path: files.version(path) for path in paths}, settings)

    if files.is_folder and any(f"{files.root.rstrip('/')}/{name}" in files.infos for name in SAVED_DATASET_FILES):
        check_selection(settings, (), "a saved dataset")
        data = load_saved_dataset(settings.path, settings)
        return _make_source(data, fingerprint_remote(files.infos), settings, "a saved dataset")
    check_selection(settings, ("format",), "an input of files")
    data_files = [path for path in files.infos if not files.is_folder or PurePosixPath(path).name not in SETTINGS_FILES]
    paths = {files.url(path): path for path in data_files}
    format_name = common_format(list(paths), settings)
    found = {"train": list(paths)}
    if files.is_folder:
        found = find_splits(files.url(files.root), settings, set(paths))
        check_split_files(found, set(paths), format_name, settings)
    splits = select_format(format_name, found, settings)
    fingerprint = fingerprint_remote(paths[url] for url in select_split(splits, settings))
    return open_files(format_name, splits, fingerprint, settings, keep_bad=keep_malformed)


def _open_hub(settings: DatasetSettings, known_fingerprint: str | None) -> Source:
    import datasets

    check_selection(settings, ("name", "revision"), "a dataset of the hub")
    try:
        builder = datasets.load_dataset_builder(settings.path, settings.name, revision=settings.revision)
    except Exception as error:  # the hub client has many exceptions for a dataset that it cannot find
        if isinstance(error, ValueError):
            _check_configuration(settings.path, settings)
        raise DatasetError(
            f"{settings.path}: neither a local file or folder nor a dataset on the hub ({describe_error(error)});"
            " check dataset.path, dataset.name, dataset.revision and the network"
        ) from error
    found = hashlib.sha256(
        f"{settings.path} {builder.config.name} {builder.hash} {settings.split}{describe_options(settings)}".encode()
    )
    data = load_split(settings, settings.path, settings.name, revision=settings.revision)
    return _make_source(data, known_fingerprint or found.hexdigest(), settings, "a dataset of the hub")


def _check_configuration(path: str, settings: DatasetSettings) -> None:
    """Say which configurations there are, if `dataset.name` selects none of several."""
    import datasets

    try:
        names = datasets.get_dataset_config_names(path, revision=settings.revision)
    except Exception:  # the error of loading the dataset says what is wrong with it
        return
    if (error := configuration_error(names, settings)) is not None:
        raise error


def _make_source(
    data: datasets.Dataset | datasets.IterableDataset, fingerprint: str, settings: DatasetSettings, kind: str
) -> Source:
    """The source of a dataset that `datasets` reads itself."""
    check_options(settings, None, kind)
    source = Source(data, fingerprint, settings)
    if data.features is not None:
        check_types(list(data.features), settings)
    return source


def _fingerprint_local(files: Iterable[str | Path], settings: DatasetSettings) -> str:
    return fingerprint_files({str(file): file_sha256(Path(file)) for file in files}, settings)
