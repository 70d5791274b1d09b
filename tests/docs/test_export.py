"""The commands of docs/export.md, and its account of an artifact."""

from __future__ import annotations

import re

import pytest
import yaml

from helpers.pages import UserFolder, code_blocks, read_page, runnable_commands
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, EVERY_VARIANT, TEXT, VARIANTS

PAGE = read_page("docs/export.md")


@pytest.mark.heavy  # two whole validations, one of them on every runtime
@pytest.mark.longest
def test_commands_write_the_artifact_that_is_shown(user: UserFolder) -> None:
    commands = runnable_commands(PAGE)
    assert len(commands) == 3
    for command in commands:
        user.run(command)
    artifact = user.folder / "artifact"
    written = {path.relative_to(artifact).as_posix() for path in artifact.iterdir()}
    (tree,) = code_blocks(PAGE, "text")
    shown = {name.rstrip("/") for line in tree.splitlines() for name in re.split(r" {3,}", line)[0].split()}
    assert shown <= written
    assert written - shown <= {"run.yaml", "modules.json", "1_Pooling"}


def test_every_graph_is_described() -> None:
    assert re.findall(r"^\| `(onnx/[^`]+)`", PAGE, re.MULTILINE) == [variant.file for variant in VARIANTS.values()]


def test_every_graph_for_devices_is_described() -> None:
    described = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", PAGE, re.MULTILINE))
    files = {name: variant.file.removesuffix("/Manifest.json") for name, variant in DEVICE_VARIANTS.items()}
    assert described == {name: file for name, file in files.items() if name != TEXT}
    assert f"makes `{files[TEXT]}`" in PAGE
    (settings,) = code_blocks(PAGE, "yaml")
    assert set(yaml.safe_load(settings)["export"]["variants"]) <= EVERY_VARIANT.keys()
