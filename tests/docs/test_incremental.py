"""The commands of docs/incremental.md, and what they print."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.pages import ROWS, UserFolder, read_page, runnable_commands
from lengthwise.encoder.kernel import has_kernel

PAGE = read_page("docs/incremental.md")


@pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
def test_commands_reuse_vectors(user: UserFolder) -> None:
    first, second = runnable_commands(PAGE)
    user.run(first)
    assert f"{len(ROWS)} rows have their vector from monday" in user.run(second)
    np.testing.assert_array_equal(user.vectors("tuesday"), user.vectors("monday"))


def test_reason_is_printed_as_the_page_says(user: UserFolder) -> None:
    first, second = runnable_commands(PAGE)
    user.run(first)
    printed = user.run(f"{second} --set tokenizer.max_length=128")
    assert "nothing of monday: max_length was null, is 128" in printed
    assert "`nothing of monday: max_length was null, is 128`" in PAGE
