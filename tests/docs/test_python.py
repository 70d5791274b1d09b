"""The code of docs/python.md, run in its order on a user's own files."""

from __future__ import annotations

import inspect

import pytest

from helpers.pages import UserFolder, code_blocks, read_page

PAGE = read_page("docs/python.md")


@pytest.mark.slow
@pytest.mark.longest
def test_code_runs_on_a_users_files(user: UserFolder) -> None:
    user.run("lengthwise export run.yaml")
    snippets = code_blocks(PAGE, "python")
    assert len(snippets) == 6
    user.run_python("\n".join(snippets))
    assert (user.folder / "trained_model/model.safetensors").is_file()
    assert (user.folder / "vectors_from_python/manifest.json").is_file()


def test_every_argument_of_the_encoder_is_described() -> None:
    from lengthwise import Encoder

    for method in (Encoder.load, Encoder.encode):
        for name in inspect.signature(method).parameters.keys() - {"self", "path", "texts"}:
            assert f"`{name}`" in PAGE, name
