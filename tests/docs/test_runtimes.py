"""docs/runtimes.md: the extras that it names, its command, and that no operator of the portable graph is left out."""

from __future__ import annotations

import re
import tomllib

import pytest
from click.testing import CliRunner

from helpers.pages import read_page, runnable_commands
from helpers.paths import ROOT
from lengthwise.cli.benchmark import main

PAGE = read_page("docs/runtimes.md")


def test_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"^\| [^|]+ \| ([^|]+) \|", PAGE, re.MULTILINE)
    found = {name for cell in named for name in re.findall(r"`([a-z-]+)`", cell)}
    assert found >= {"openvino", "tract", "opencv", "iree", "cpu", "gpu"}
    assert found <= extras.keys()


@pytest.mark.parametrize(
    "engine", ["tract", "opencv-python-headless", "iree-base-compiler", "onnxslim", "ai-edge-litert"]
)
def test_versions_are_those_that_are_tested(engine: str) -> None:
    pinned = re.search(rf"^{engine}==(\d+\.\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert pinned.group(1) in PAGE


def test_command_exists() -> None:
    assert runnable_commands(PAGE) == ["lengthwise benchmark runtimes runs/quickstart/artifact"]
    assert CliRunner().invoke(main, ["runtimes", "--help"]).exit_code == 0
