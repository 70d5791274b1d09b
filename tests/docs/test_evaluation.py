"""The commands and code of docs/evaluation.md, and that it describes every kind of task."""

from __future__ import annotations

import re

import pytest
import yaml

from helpers.pages import UserFolder, code_blocks, read_page, runnable_commands
from lengthwise.evaluation.tasks import KINDS, parse_tasks

PAGE = read_page("docs/evaluation.md")


@pytest.mark.slow
def test_the_command_and_the_code_run_on_a_users_files(user: UserFolder) -> None:
    command, _ = runnable_commands(PAGE)  # the second one needs other models
    table = user.run(command)
    assert "| model | dim | answers (MRR) | topics (accuracy) | order (accuracy) | mean |" in table
    (snippet,) = code_blocks(PAGE, "python")
    user.run_python(f"{snippet}\nassert better.value >= 0")


def test_every_kind_and_metric_is_described() -> None:
    assert re.findall(r"^\| `(\w+)` \| (?!ranks)", PAGE, re.MULTILINE) == list(KINDS)
    tasks = parse_tasks(yaml.safe_load(code_blocks(PAGE, "yaml")[0]), "docs/evaluation.md")
    assert set(tasks) == {"answers", "topics", "order"}
    for kind, task in KINDS.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` |"))
        assert task.main.lower().split()[0] in row.lower()
