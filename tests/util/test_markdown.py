"""Markdown tables."""

from __future__ import annotations

import pytest

from lengthwise.util.markdown import RIGHT, markdown_table


def test_table_has_header_ruler_and_rows() -> None:
    assert markdown_table(("name", "value"), [("a", 1), ("b", "")]) == (
        "| name | value |\n| --- | --- |\n| a | 1 |\n| b |  |"
    )


def test_columns_after_the_first_can_be_aligned_right() -> None:
    assert markdown_table(("name", "x", "y"), [], RIGHT).splitlines()[1] == "| --- | ---: | ---: |"


def test_pipes_and_line_breaks_in_cells_are_escaped() -> None:
    assert markdown_table(("name",), [("a|b\n c",)]).splitlines()[2] == "| a\\|b c |"


def test_row_of_another_width_is_an_error() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells and the table 2 columns"):
        markdown_table(("a", "b"), [("x",)])
