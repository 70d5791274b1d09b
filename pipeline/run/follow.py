"""`lengthwise encode --follow`: watches a folder, and encodes each file that comes into it once the file is whole.

- A file is whole when neither its size nor its modification time has changed for as long as the interval between two
  looks. Files with names of temporary ones are left alone until they are renamed, and so are empty files, unless rows
  of them were encoded: a file that has lost its rows ends the run, as one that is gone does.
- Each file is an input of its own (`run.append`), committed before the next one is read, so a follower may be killed at
  any time. What it had begun is completed, or planned anew, when it is started again.
- The folder is locked all the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lengthwise.config import DatasetSettings, RunConfig
from lengthwise.data.dataset import find_run_dataset
from lengthwise.data.files import file_extension, file_format
from lengthwise.data.input import Input
from lengthwise.encoder.engine import Engine
from lengthwise.errors import ConfigError
from lengthwise.run.append import open_append
from lengthwise.run.growing import Added
from lengthwise.run.precision import PrecisionChoice
from lengthwise.run.stats import EncodeReport
from lengthwise.tokens.tokenizer import TextTokenizer

_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".download", ".filepart", ".swp", ".lock", "~")


def follow(
    config: RunConfig,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    interval: float,
    idle_exit: float | None = None,
    fresh: bool = False,
    choice: PrecisionChoice | None = None,
    on_added: Callable[[Added], object] = lambda added: None,
) -> EncodeReport:
    """Encode the files of a run's folder, and those that come later.

    Args:
        interval: seconds between two looks at the folder.
        idle_exit: seconds without a new file after which it ends; it does not end by itself where it is None.
        fresh: remove what the folder of vectors holds, of this run or another.
        choice: how the precision was chosen, if it was.
        on_added: is called after each commit.

    Raises:
        ConfigError: the input is not made of files.
        LengthwiseError: as `lengthwise.run.append.encode_append`.
    """
    watch, started = FileWatch(config, interval), time.perf_counter()
    with open_append(config, tokenizer, engine, fresh=fresh, show_progress=False, choice=choice) as run:
        last, is_first = time.monotonic(), True
        while True:
            for added in run.update(watch.find(), one_by_one=True, is_partial=True):
                run.finish()
                on_added(added)
                last = time.monotonic()
            if run.is_checked:
                watch.remember()
            if is_first and run.is_checked:
                is_first = False
                if run.record.segments:
                    run.finish()  # a follower that was killed may have committed a file and no more
            if watch.is_waiting:
                last = time.monotonic()
            elif idle_exit is not None and time.monotonic() - last >= idle_exit:
                return run.report(time.perf_counter() - started, choice)
            time.sleep(interval)


class FileWatch:
    """The files of a run's input that are whole.

    Attributes:
        is_waiting: whether a file was seen at the last look that may not be whole yet.
    """

    def __init__(self, config: RunConfig, seconds: float) -> None:
        self._config, self._seconds = config, seconds
        self._since: dict[str, tuple[str, float]] = {}  # when a file was first seen as it is
        self._versions: dict[str, tuple[str, str]] = {}  # of files as they are, so that none is read twice for it
        self._chosen: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._empty: frozenset[str] = frozenset()
        self.is_waiting = False

    def find(self) -> Input:
        """The input, of its files that are whole; none of them where no new one is among them.

        Raises:
            ConfigError: the input is not made of files.
            DatasetError: it cannot be found.
        """
        found = find_run_dataset(self._config, self._choose)
        files = found.files
        if files is None:
            raise _cannot_follow(self._config.dataset)

        def version_of(path: str) -> str:
            signature = self._chosen[path]
            known = self._versions.get(path)
            if known is None or known[0] != signature:
                known = self._versions[path] = signature, files.version_of(path)
            return known[1]

        return Input.of_files(replace(files, version_of=version_of, empty=self._empty))

    def remember(self) -> None:
        """Take the files of the last look for known: they are chosen again with the next one that is not."""
        self._known.update(self._chosen)

    def _choose(self, signatures: Mapping[str, str]) -> Mapping[str, str]:
        """Of files with their signatures, those that are whole, if one of them is not known."""
        now, whole, empty = time.monotonic(), {}, set()
        self.is_waiting = False
        for path, signature in signatures.items():
            if not self._is_data(path):
                continue
            before, since = self._since.get(path, ("", now))
            if before != signature:
                since = now
            self._since[path] = signature, since
            if now - since < self._seconds and _age(path) < self._seconds:
                self.is_waiting = True
            elif signature.startswith("0 "):
                empty.add(path)
            else:
                whole[path] = signature
        self._empty = frozenset(empty)
        self._chosen = whole if any(self._known.get(path) != whole[path] for path in whole) else {}
        return self._chosen

    def _is_data(self, path: str) -> bool:
        name = PurePosixPath(path).name
        if name.lower().endswith(_TEMPORARY):
            return False
        return self._config.dataset.format is not None or file_format(name) is not None or _is_zip(name)


def _cannot_follow(settings: DatasetSettings) -> ConfigError:
    needs = "--follow needs a folder of files, or a pattern"
    if "://" not in settings.path and not Path(settings.path).expanduser().exists():
        return ConfigError(
            f"dataset.path is {settings.path!r}: there is no such folder (looked in {Path.cwd()}), and datasets of the"
            f" hub cannot be followed; {needs}"
        )
    return ConfigError(
        f"dataset.path is {settings.path!r} and dataset.split {settings.split!r}, which do not name files that can be"
        f" read one by one: it is a saved dataset, or has a dataset card, or there is no such split; {needs}, and the"
        " name of a split that its files have"
    )


def _is_zip(name: str) -> bool:
    return file_extension(name) == ".zip"


def _age(path: str) -> float:
    """Seconds since a local file was last written to; 0 of others."""
    if "://" in path:
        return 0.0
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0
