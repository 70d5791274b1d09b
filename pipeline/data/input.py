"""What `dataset.path` names, found and not opened: files that can be opened one by one, or a dataset as a whole."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile
from lengthwise.data.readers import fingerprint_files, select_split
from lengthwise.data.source import Source

# Which files to read, of all that are there: given by their paths or URLs, each with a string that changes with it.
ChooseFiles = Callable[[Mapping[str, str]], Collection[str]]


@dataclass(frozen=True)
class FoundFiles:
    """Data files of one format.

    Attributes:
        settings: which were used to find them.
        format: see `data.files`; empty where there are no files.
        splits: the files of each split.
        base: the folder that their names are relative to.
        present: the paths of all files that are there, those that were not chosen too.
        version_of: a string that changes with a file's contents, by its path.
        keep_malformed: whether malformed rows are rows.
        empty: of those that are there and were not chosen, the paths of files without a byte, as far as that is known.
    """

    settings: DatasetSettings
    format: str
    splits: dict[str, list[DataFile]]
    base: str
    present: frozenset[str]
    version_of: Callable[[str], str]
    keep_malformed: bool
    empty: frozenset[str] = frozenset()

    @property
    def paths(self) -> dict[str, str]:
        """The paths of the files that `dataset.split` is read from, by their names, in reading order."""
        return {self.name(path): path for path in select_split(self.splits, self.settings)}

    @property
    def is_divisible(self) -> bool:
        """Whether the rows are those of one file after the other; they are not in a split such as "train[:10%]"."""
        return not self.splits or self.settings.split in self.splits

    def name(self, path: str) -> str:
        """A file's name below the base."""
        return path.removeprefix(self.base).lstrip("/")

    def versions(self) -> dict[str, str]:
        """The version of each file, by its name, in reading order; local files are read for it."""
        return {name: self.version_of(path) for name, path in self.paths.items()}

    def fingerprint(self, versions: Mapping[str, str]) -> str:
        """That of an input of files of these names and versions."""
        paths = self.paths
        return fingerprint_files({paths[name]: version for name, version in versions.items()}, self.settings)

    def open(self, fingerprint: str | None = None, versions: Mapping[str, str] | None = None) -> Source:
        """Open the rows of the files.

        Args:
            fingerprint: the input's, if it is known already, so that its files are not read to compute it.
            versions: the names of the files to read, in this order, and their versions; all files where it is None.

        Raises:
            DatasetError: a file cannot be read, or has no rows or columns that are needed.
        """
        from lengthwise.data.builder import open_files  # here, as it imports `datasets`

        splits = self.splits
        if versions is None:
            versions = {} if fingerprint is not None else self.versions()
        else:
            splits = {self.settings.split: self._select(versions)}
        fingerprint = fingerprint or self.fingerprint(versions)
        source = open_files(self.format, splits, fingerprint, self.settings, keep_bad=self.keep_malformed)
        source.versions = versions if self.is_divisible else {}
        return source

    def _select(self, names: Mapping[str, str]) -> list[DataFile]:
        by_name: dict[str, list[DataFile]] = {}
        for file in self.splits[self.settings.split]:
            by_name.setdefault(self.name(file.path), []).append(file)
        return [file for name in names for file in by_name[name]]


@dataclass(frozen=True)
class Input:
    """An input that was found.

    Attributes:
        settings: which name it.
        open_whole: opens it, with its fingerprint if that is known.
        files: those it consists of, if they can be opened one by one.
    """

    settings: DatasetSettings
    open_whole: Callable[[str | None], Source]
    files: FoundFiles | None = field(default=None)

    @classmethod
    def of_files(cls, files: FoundFiles) -> Input:
        """An input of files."""
        return cls(files.settings, files.open, files if files.is_divisible else None)


def base_folder(path: str, *, is_folder: bool, is_glob: bool) -> str:
    """The folder that names of files are relative to: the one that is given, or that of a file, or of a pattern."""
    if is_folder:
        return path.rstrip("/")
    parent = PurePosixPath(path.partition("://")[2] or path).parent
    if is_glob:
        parts: Sequence[str] = parent.parts
        fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        parent = PurePosixPath(*parts[:fixed])
    prefix = path[: path.index("://") + 3] if "://" in path else ""
    return "" if not prefix and str(parent) == "." else f"{prefix}{parent}"
