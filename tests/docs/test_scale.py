"""The commands and settings of docs/scale.md."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from helpers.pages import UserFolder, code_blocks, read_page, runnable_commands
from lengthwise.config import ClusterSettings

PAGE = read_page("docs/scale.md")


@pytest.mark.slow
@pytest.mark.longest
def test_commands_write_the_same_vectors(user: UserFolder) -> None:
    user.run("lengthwise encode run.yaml")
    commands = runnable_commands(PAGE)
    assert len(commands) == 4
    for command in commands:
        user.run(command)
    for name in ("by_ray", "by_jobs"):
        np.testing.assert_array_equal(user.vectors(name), user.vectors("vectors"))


def test_settings_of_the_cluster_are_those_of_the_code() -> None:
    (block,) = code_blocks(PAGE, "yaml")
    shown = yaml.safe_load(block)["cluster"]
    assert shown.keys() == ClusterSettings.model_fields.keys()
    ClusterSettings(**shown)
