"""Open the dataset that the settings name: local files, a folder, files at a URL, or a hub dataset.

- Local files are fingerprinted by their contents: a touched or moved file is the same input, a changed line is another
  one. Hub datasets are fingerprinted by the commit that they resolve to.
- An input is found before it is opened, so that some of its files can be opened alone (`Input.files`).
"""

from __future__ import annotations

import glob
import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lengthwise.config import DatasetSettings, RunConfig
from lengthwise.data.files import DataFile, file_format, is_visible
from lengthwise.data.input import ChooseFiles, FoundFiles, Input, base_folder
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
    return find_dataset(settings, keep_malformed=keep_malformed).open_whole(fingerprint)


def find_dataset(
    settings: DatasetSettings, *, keep_malformed: bool = False, choose: ChooseFiles | None = None
) -> Input:
    """Find the dataset that the settings name.

    Args:
        keep_malformed: as for `open_dataset`.
        choose: decides which data files to read; there may then be none. All are read where it is None.

    Raises:
        DatasetError: there is no such dataset or split.
    """
    if not settings.path.strip():
        raise DatasetError("dataset.path is empty; set it to a file, a folder, a glob or a hub name")
    if "://" in settings.path:
        return _find_url(settings, keep_malformed, choose)
    with _wrap_local_errors(settings):
        path = Path(settings.path)
        if settings.path.startswith("~") and not path.exists():
            path = _expand_home(settings)
        files = _find_local_files(path, settings, may_be_none=choose is not None)
        if files is not None:
            return _guard(_find_local(path, files, settings, keep_malformed, choose), _wrap_local_errors)
    return Input(settings, partial(_open_hub, settings))


def open_run_dataset(config: RunConfig, fingerprint: str | None = None) -> Source:
    """`open_dataset` for a run: unless bad rows are errors, malformed rows are kept and marked."""
    return find_run_dataset(config).open_whole(fingerprint)


def find_run_dataset(config: RunConfig, choose: ChooseFiles | None = None) -> Input:
    """`find_dataset` for a run: unless bad rows are errors, malformed rows are kept and marked."""
    return find_dataset(config.dataset, keep_malformed=config.encode.bad_rows != "error", choose=choose)


@contextmanager
def _wrap_local_errors(settings: DatasetSettings) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # an impossible file name, or a file that is gone
        raise DatasetError(
            f"{settings.path}: cannot be opened ({describe_error(error)}); set dataset.path to a file, a folder or a"
            " glob that can be read"
        ) from error


def _guard(found: Input, wrap_errors: Callable[[DatasetSettings], AbstractContextManager[None]]) -> Input:
    """The input, whose errors are wrapped when it is opened too, and when its files are identified."""

    def open_whole(fingerprint: str | None) -> Source:
        with wrap_errors(found.settings):
            return found.open_whole(fingerprint)

    def version_of(path: str) -> str:
        with wrap_errors(found.settings):
            return files.version_of(path) if files is not None else ""

    files = found.files
    return Input(found.settings, open_whole, None if files is None else replace(files, version_of=version_of))


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


def _find_local_files(path: Path, settings: DatasetSettings, *, may_be_none: bool = False) -> list[Path] | None:
    """The local files of `dataset.path`, sorted, a folder's "_" files included; None if it is a hub name.

    Args:
        may_be_none: whether a pattern may match no file.

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
    if may_be_none and glob.has_magic(settings.path):
        return []
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


def _find_local(
    path: Path, files: list[Path], settings: DatasetSettings, keep_malformed: bool, choose: ChooseFiles | None
) -> Input:
    """Find a folder of `save_to_disk`, a folder with a dataset card, or files of one format."""
    if path.is_dir() and any((path / name).exists() for name in SAVED_DATASET_FILES):
        check_selection(settings, (), "a saved dataset")
        return Input(settings, partial(_open_saved, path, files, settings))
    if path.is_dir() and not settings.format and _has_data_card(path):
        return Input(settings, partial(_open_card, path, files, settings, keep_malformed))
    check_selection(settings, ("format",), "an input of files")
    root = path.resolve()
    if path.is_dir():
        visible_files = _visible_files(path, files, settings, may_be_none=choose is not None)
        files = [root / file.relative_to(path) for file in visible_files]
    present = frozenset(str(file) for file in files)
    if choose is not None:
        signatures = {str(file): _signature(file) for file in files}
        chosen = choose({name: signature for name, signature in signatures.items() if signature is not None})
        files = [file for file in files if str(file) in chosen]
    splits: dict[str, list[DataFile]] = {}
    format_name = ""
    if files or choose is None:
        format_name = common_format([str(file) for file in files], settings)
        if choose is None and not any(file.stat().st_size for file in files):
            raise no_rows_error(settings)
        found = {"train": [str(file) for file in files]}
        if path.is_dir():
            found = find_splits(str(root), settings, present)
            check_split_files(found, present, format_name, settings)
            found = _only(found, {str(file) for file in files})
            if choose is None:
                _warn_of_skipped(path, format_name, settings)
        splits = select_format(format_name, found, settings)
    base = str(root) if path.is_dir() else base_folder(str(path), is_folder=False, is_glob=not path.is_file())
    return Input.of_files(
        FoundFiles(settings, format_name, splits, base, present, lambda file: file_sha256(Path(file)), keep_malformed)
    )


def _signature(file: Path) -> str | None:
    """What changes with a local file, at the latest when it is written to again after a moment.

    None if it is gone: files are renamed while the folder is looked at.
    """
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return f"{status.st_size} {status.st_mtime_ns}"


def _only(splits: Mapping[str, list[str]], chosen: Collection[str]) -> dict[str, list[str]]:
    """The chosen files of each split; a split is one by all files that are there, and may then have none."""
    return {split: [file for file in files if file in chosen] for split, files in splits.items()}


def _open_saved(path: Path, files: list[Path], settings: DatasetSettings, known_fingerprint: str | None) -> Source:
    """Open a folder of `save_to_disk`."""
    fingerprint = known_fingerprint or _fingerprint_local(files, settings)
    return _make_source(load_saved_dataset(path, settings), fingerprint, settings, "a saved dataset")


def _visible_files(folder: Path, files: list[Path], settings: DatasetSettings, *, may_be_none: bool) -> list[Path]:
    """The files of a folder that are read, without what `datasets` takes for settings by its name.

    Raises:
        DatasetError: there are data files, but all have hidden names.
    """
    visible = [file for file in files if is_visible(str(file), str(folder)) and file.name not in SETTINGS_FILES]
    if visible or may_be_none:
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
    folder: Path, files: list[Path], settings: DatasetSettings, keep_malformed: bool, known_fingerprint: str | None
) -> Source:
    """Open the data files that a folder's README.md names."""
    import datasets

    from lengthwise.data.builder import open_files, read_card

    fingerprint = known_fingerprint or _fingerprint_local(files, settings)
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


def _find_url(settings: DatasetSettings, keep_malformed: bool, choose: ChooseFiles | None) -> Input:
    """Find the file, glob or folder at an fsspec URL."""
    from fsspec.core import url_to_fs

    with _wrap_url_errors(settings):
        fs, root = url_to_fs(settings.path)
        if "file" in (fs.protocol, *fs.protocol):
            local = settings.model_copy(update={"path": root})
            return find_dataset(local, keep_malformed=keep_malformed, choose=choose)
        files = find_remote_files(fs, root)
        if not files.infos and not (choose is not None and files.is_folder):
            raise DatasetError(
                f"{settings.path}: there is no such file or folder; set dataset.path to one, or to a glob"
            )
        return _guard(_find_remote(files, settings, keep_malformed, choose), _wrap_url_errors)


@contextmanager
def _wrap_url_errors(settings: DatasetSettings) -> Iterator[None]:
    try:
        yield
    except LengthwiseError:
        raise
    except Exception as error:  # clients of object stores have exceptions of their own
        raise DatasetError(
            f"{settings.path}: cannot be opened ({describe_error(error)}); check dataset.path, the credentials in the"
            " environment, and that the package for this protocol is installed"
        ) from error


def _find_remote(
    files: RemoteFiles, settings: DatasetSettings, keep_malformed: bool, choose: ChooseFiles | None
) -> Input:
    """Find a folder of `save_to_disk`, or files of one format."""
    if files.is_folder and any(f"{files.root.rstrip('/')}/{name}" in files.infos for name in SAVED_DATASET_FILES):
        check_selection(settings, (), "a saved dataset")
        return Input(settings, partial(_open_saved_remote, files, settings))
    check_selection(settings, ("format",), "an input of files")
    data_files = [path for path in files.infos if not files.is_folder or PurePosixPath(path).name not in SETTINGS_FILES]
    paths = {files.url(path): path for path in data_files}
    present = frozenset(paths)
    if choose is not None:
        chosen = choose({url: files.version(path) for url, path in paths.items()})
        paths = {url: path for url, path in paths.items() if url in chosen}
    splits: dict[str, list[DataFile]] = {}
    format_name = ""
    if paths or choose is None:
        format_name = common_format(list(paths), settings)
        found = {"train": list(paths)}
        if files.is_folder:
            found = find_splits(files.url(files.root), settings, present)
            check_split_files(found, present, format_name, settings)
            found = _only(found, paths)
        splits = select_format(format_name, found, settings)
    is_glob = not files.is_folder and files.root not in files.infos
    base = base_folder(files.url(files.root), is_folder=files.is_folder, is_glob=is_glob)
    return Input.of_files(
        FoundFiles(settings, format_name, splits, base, present, lambda url: files.version(paths[url]), keep_malformed)
    )


def _open_saved_remote(files: RemoteFiles, settings: DatasetSettings, known_fingerprint: str | None) -> Source:
    """Open a folder of `save_to_disk` at a URL."""
    data = load_saved_dataset(settings.path, settings)
    fingerprint = known_fingerprint or fingerprint_files({path: files.version(path) for path in files.infos}, settings)
    return _make_source(data, fingerprint, settings, "a saved dataset")


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
