"""Fixtures of the tests of the documentation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.pages import UserFolder, write_user_folder


@pytest.fixture(scope="session")
def _folder_with_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    write_user_folder(folder)
    user = UserFolder(folder)
    user.run("lengthwise train-tokenizer run.yaml")
    user.run("lengthwise init-model run.yaml")
    return folder


@pytest.fixture
def empty_user(tmp_path: Path) -> UserFolder:
    """A user with texts and a run.yaml."""
    write_user_folder(tmp_path)
    return UserFolder(tmp_path)


@pytest.fixture
def user(_folder_with_model: Path, tmp_path: Path) -> UserFolder:
    """A user who has a tokenizer and a checkpoint too."""
    shutil.copytree(_folder_with_model, tmp_path, dirs_exist_ok=True)
    return UserFolder(tmp_path)
