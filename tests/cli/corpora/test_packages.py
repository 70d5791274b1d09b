"""Packages are fetched by the ordinary clients, once, and what cannot be fetched is an error that names it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from lengthwise.cli.corpora.packages import Packages
from lengthwise.errors import DatasetError


def install(folder: Path, name: str, script: str) -> None:
    """Put a client into a folder of commands."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which commands are looked for first."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "bin"


def test_debian_package_is_downloaded_once(tmp_path: Path, commands: Path) -> None:
    install(
        commands, "apt-get", f'echo "$@" >> {tmp_path}/calls; case "$*" in *download*) touch hello_1_all.deb;; esac'
    )
    install(commands, "dpkg-deb", 'mkdir -p "$3/usr"; echo hello > "$3/usr/file"')
    for _ in range(2):
        found = Packages(tmp_path / "packages").debian("hello")
        assert (found / "usr/file").read_text() == "hello\n"
    assert (tmp_path / "calls").read_text().count("download hello") == 1


def test_npm_package(tmp_path: Path, commands: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/data.txt").write_text("x")
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    install(commands, "npm", f"cp {tmp_path}/made.tgz scope-name-1.0.0.tgz")
    found = Packages(tmp_path / "packages").npm("@scope/name", "1.0.0")
    assert (found / "data.txt").read_text() == "x"
    assert found.name == "npm-scope-name-1.0.0"


def test_package_that_cannot_be_had_is_named(tmp_path: Path, commands: Path) -> None:
    install(
        commands, "apt-get", 'case "$*" in *download*) echo "E: Unable to locate package nothing" >&2; exit 100;; esac'
    )
    with pytest.raises(
        DatasetError, match="the Debian package nothing cannot be fetched: apt-get: E: Unable to locate"
    ):
        Packages(tmp_path / "packages").debian("nothing")
    assert not (tmp_path / "packages/debian-nothing").exists()


def test_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatasetError, match=r"the npm package x .* cannot be fetched: the command npm is not installed"):
        Packages(tmp_path / "packages").npm("x", "1.0.0")
