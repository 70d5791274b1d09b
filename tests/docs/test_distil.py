"""docs/distil.md: its commands and code run on a user's files, and its settings exist."""

from __future__ import annotations

import pytest

from helpers.pages import UserFolder, code_blocks, read_page, runnable_commands
from lengthwise import Encoder
from lengthwise.train_config import TrainSettings
from lengthwise.util.settings import parse_settings
from lengthwise.util.yaml_files import parse_yaml

PAGE = read_page("docs/distil.md")


@pytest.mark.slow
def test_run_file_trains_an_encoder(user: UserFolder) -> None:
    run, _ = code_blocks(PAGE, "yaml")
    (user.folder / "run.yaml").write_text(run)
    (command,) = runnable_commands(PAGE)
    assert "checkpoint  student: 256 dimensions" in user.run(command)
    assert Encoder.load(user.folder / "student").config.trained
    (code,) = code_blocks(PAGE, "python")
    assert user.run_python(code).startswith("student ")  # it is finished, and so not made again


def test_sources_are_settings() -> None:
    _, sources = code_blocks(PAGE, "yaml")
    settings = parse_settings(TrainSettings, parse_yaml(sources, "page")["train"], "page")
    assert [source.kind for source in settings.sources] == ["vectors", "pairs", "labels"]
