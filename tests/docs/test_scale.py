"""The commands and settings of docs/scale.md."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from helpers.pages import UserFolder, code_blocks, read_page, runnable_commands
from lengthwise.config import ClusterSettings

PAGE = read_page("docs/scale.md")


@pytest.mark.parametrize(
    ("name", "number"), [("by_jobs", 3), pytest.param("by_ray", 1, marks=[pytest.mark.heavy, pytest.mark.longest])]
)
def test_commands_write_the_same_vectors(user: UserFolder, name: str, number: int) -> None:
    """What Ray writes is compared with what one process writes in test_cluster.py too."""
    user.run("lengthwise encode run.yaml")
    commands = [command for command in runnable_commands(PAGE) if f"encode.output={name}" in command]
    assert len(commands) == number
    for command in commands:
        user.run(command)
    np.testing.assert_array_equal(user.vectors(name), user.vectors("vectors"))


def test_every_command_is_run() -> None:
    assert len(runnable_commands(PAGE)) == 4


def test_settings_of_the_cluster_are_those_of_the_code() -> None:
    (block,) = code_blocks(PAGE, "yaml")
    shown = yaml.safe_load(block)["cluster"]
    assert shown.keys() == ClusterSettings.model_fields.keys()
    ClusterSettings(**shown)
