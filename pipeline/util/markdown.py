"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LEFT, RIGHT = "---", "---:"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], align: str = LEFT) -> str:
    """A Markdown table.

    Args:
        columns: the heads of the columns.
        rows: per row, one cell per column; line breaks and `|` within a cell are escaped.
        align: of every column but the first, which is aligned left: LEFT or RIGHT.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """
    lines = [_line(columns), _line([LEFT, *[align] * (len(columns) - 1)])]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells and the table {len(columns)} columns")
        lines.append(_line([_escape(str(cell)) for cell in row]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())
