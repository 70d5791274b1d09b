"""Tables of words and frames, as text: one entry a line, `#` before a comment."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def read_lines(name: str) -> tuple[str, ...]:
    """The lines of a table that are no comments."""
    text = files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


@cache
def read_sections(name: str) -> dict[str, tuple[str, ...]]:
    """The lines of a table by the heading in square brackets above them."""
    sections: dict[str, list[str]] = {}
    for line in read_lines(name):
        if line.startswith("[") and line.endswith("]") and "|" not in line:
            current = sections.setdefault(line[1:-1], [])
        else:
            current.append(line)
    return {heading: tuple(lines) for heading, lines in sections.items()}
