"""The commands and code of docs/encoding.md, run in their order on a user's own files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.pages import ROWS, UserFolder, code_blocks, read_page, runnable_commands
from lengthwise.config import EncodeSettings

PAGE = read_page("docs/encoding.md")


@pytest.mark.slow
@pytest.mark.longest
def test_commands_and_code_run_on_a_users_files(user: UserFolder) -> None:
    commands = runnable_commands(PAGE)
    assert len(commands) == 9
    for command in commands:
        user.run(command)

    vectors = user.vectors("vectors")
    assert vectors.shape == (len(ROWS), 256)
    for name in ("from_parquet", "from_text"):
        np.testing.assert_array_equal(user.vectors(name), vectors)
    np.testing.assert_allclose(user.vectors("by_onnx"), vectors, atol=1e-6, rtol=0)
    assert (user.folder / "lengths.png").is_file()
    snippets = "\n".join(code_blocks(PAGE, "python"))
    user.run_python(f"{snippets}\nassert len(vectors) == len(frame) == {len(ROWS)}")


@pytest.mark.slow
def test_quarantine_is_where_the_page_says(user: UserFolder) -> None:
    (user.folder / "reviews.csv").write_text("id,body\n0,the cat\n1,\n")
    user.run("lengthwise encode run.yaml --set encode.bad_rows=quarantine")
    (line,) = (user.folder / "vectors/quarantine/shard-000000.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == 1
    assert "`quarantine/shard-000000.jsonl`" in PAGE


def test_every_setting_of_encode_is_described() -> None:
    for name in EncodeSettings.model_fields.keys() - {"output"}:
        assert f"`encode.{name}" in PAGE or f"`{name}:" in PAGE, name
