"""docs/training.md: its code runs on a user's own files."""

from __future__ import annotations

import pytest

from helpers.pages import UserFolder, code_blocks, read_page

PAGE = read_page("docs/training.md")


@pytest.mark.slow
@pytest.mark.longest
def test_code_runs_in_order(user: UserFolder) -> None:
    for package in ("accelerate", "pytorch_lightning", "torchdata", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    blocks = code_blocks(PAGE, "python")
    assert len(blocks) >= 9
    printed = user.run_python("\n".join(blocks))
    assert "tensor([0, 2, 1])" in printed
    assert "torch.Size([16, 40])" in printed
    assert "True" in printed
    assert printed.count("equal lengths") == 2
