"""The README's commands and code, run in their order on a user's own files, and the files that it names."""

from __future__ import annotations

import json
import re
import tomllib

import click
import numpy as np
import pytest

from helpers.pages import MAKE_TARGETS, ROWS, UserFolder, code_blocks, commands_of, read_page, runnable_commands
from helpers.paths import ROOT
from helpers.texts import TEXTS
from lengthwise.cli.main import COMMANDS, main
from lengthwise.encoder.kernel import has_kernel

PAGE = read_page("README.md")
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.slow
@pytest.mark.longest
def test_commands_and_code_run_on_a_users_files(empty_user: UserFolder) -> None:
    commands = runnable_commands(PAGE)
    assert len(commands) == 21
    if not has_kernel():  # then vectors in float32 depend on their batch in the last bits, and are not kept
        commands = [command for command in commands if not command.startswith("lengthwise cache")]
    served = []
    for command in commands:
        if command.startswith("lengthwise serve"):
            served.append(empty_user.embed_with_server(command))
        else:
            empty_user.run(command)

    vectors = empty_user.vectors("vectors")
    assert vectors.shape == (len(ROWS), 256)
    assert len(served) == 2
    for answer in served:
        np.testing.assert_allclose(answer, vectors[: len(TEXTS)], atol=1e-6, rtol=0)
    (compared,) = (empty_user.folder / "runs/benchmark").glob("encode-*.json")
    rows = json.loads(compared.read_bytes())["tables"][0]["rows"]
    exact = {row[0]: float(row[3]) for row in rows if "fp32" in row[0] and not row[1].startswith("not run")}
    assert len(exact) >= 2
    assert max(exact.values()) <= 1e-6, exact
    (snippet,) = code_blocks(PAGE, "python")
    empty_user.run_python(f"{snippet}\nassert (vectors.shape, str(vectors.dtype)) == ((2, 256), 'float32')")


def test_every_command_has_an_example() -> None:
    table = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert table == list(COMMANDS)


def test_make_targets_exist_and_are_steps_of_ci() -> None:
    makefile = (ROOT / "Makefile").read_text()
    ci = (ROOT / ".ci" / "run").read_text()
    shown = {command for page in PAGES for command in commands_of(read_page(page)) if command.startswith("make ")}
    assert shown >= MAKE_TARGETS
    for command in shown:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
    for command in MAKE_TARGETS:
        assert command in ci


def test_extras_that_pages_install_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [
        names
        for page in PAGES
        for names in re.findall(r"pip install '(?:lengthwise|\.)\[([a-z,]+)\]'", read_page(page))
    ]
    assert found
    for names in found:
        assert set(names.split(",")) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    for words in re.findall(r"\blengthwise ([a-z-]+(?: [^`#\n|]*)?)", "\n".join(code_of(read_page(page)))):
        name, *arguments = words.split()
        command = main.get_command(click.Context(main), name)
        assert command is not None, words
        if isinstance(command, click.Group) and arguments:
            command = command.commands[arguments.pop(0)]
        options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert {word for word in arguments if word.startswith("--")} <= options, words


def code_of(page: str) -> list[str]:
    """The bash blocks and code spans of a page."""
    outside = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return [*(block.replace("\\\n", " ") for block in code_blocks(page, "bash")), *re.findall(r"`([^`]+)`", outside)]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_images_exist(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", read_page(page), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    for link in links:
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_folders_of_the_tree_exist() -> None:
    (tree,) = [block for block in code_blocks(PAGE, "text") if "pipeline/" in block]
    folder = ROOT
    for line in tree.splitlines():
        indented, name = line.startswith("  "), line.split()[0]
        if not indented:
            folder = ROOT / name
        assert (folder / name if indented else folder).exists(), line
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    packages = [path.parent for top in ("pipeline", "export") for path in (ROOT / top).glob("*/__init__.py")]
    assert {path.name for path in packages} - {"util"} <= listed


def test_readme_is_short() -> None:
    prose = re.sub(r"^```.*?^```|^\|.*?$|^<img.*?$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) < 800
