"""docs/packing.md: its code prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

from helpers.pages import read_page

PAGE = read_page("docs/packing.md")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def test_code_prints_what_is_shown() -> None:
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(PAGE)
    assert len(blocks) >= 9
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == shown, code
