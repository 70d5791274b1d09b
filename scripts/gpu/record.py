"""Results of a GPU check: rows by section, kept as JSON, and shown as a part of a Markdown page.

A section keeps the results of the last GPU that it ran on. A later check without a GPU, or of other sections, leaves
them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lengthwise.errors import LengthwiseError
from lengthwise.util.files import write_atomically
from lengthwise.util.markdown import markdown_table

Status = Literal["passed", "missed", "failed", "measured", "rehearsed", "not run"]
NOT_RUN = "not run on a GPU"
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"


@dataclass(frozen=True)
class Row:
    """What one check found.

    Attributes:
        what: was measured.
        asked: for; empty where the figure is for the reader's information.
        found: in words and figures; `NOT_RUN` where it was not run.
        status: missed where it worked, but less than was asked for was found; failed where it did not work.
    """

    what: str
    asked: str
    found: str = NOT_RUN
    status: Status = "not run"


@dataclass(frozen=True)
class Ran:
    """Where and when a section ran.

    Attributes:
        device: the GPU's name; in a rehearsal, what was used in its place.
        versions: by package.
        date: ISO 8601.
        command: that printed it.
    """

    device: str
    versions: Mapping[str, str]
    date: str
    command: str


@dataclass(frozen=True)
class SectionRecord:
    """The rows of a section, and where they were measured; `ran` is None where they were not."""

    name: str
    title: str
    rows: tuple[Row, ...]
    ran: Ran | None = None

    @property
    def passed(self) -> bool:
        """Whether all of it ran on a GPU, and nothing failed or was missed; of a rehearsal, whether nothing failed."""
        statuses = {row.status for row in self.rows}
        return statuses <= {"passed", "measured"} or ("rehearsed" in statuses and statuses <= {"rehearsed", "not run"})


Record = tuple[SectionRecord, ...]


def carried_over(before: Record, now: Record) -> Record:
    """The sections of `now`, none of which has run, with what is known of them from before.

    A check that was added since reads "not run on a GPU" until it is; one that is no more is left out.
    """
    known = {section.name: section for section in before}
    sections = []
    for section in now:
        earlier = known.get(section.name, section)
        rows = {row.what: row for row in earlier.rows} if earlier.ran else {}
        sections.append(replace(section, rows=tuple(rows.get(row.what, row) for row in section.rows), ran=earlier.ran))
    return tuple(sections)


def with_section(record: Record, section: SectionRecord) -> Record:
    """The record with this section in the place of the one of its name."""
    return tuple(section if section.name == other.name else other for other in record)


def load_record(path: Path) -> Record:
    """Read what `save_record` wrote; nothing where there is no file.

    Raises:
        LengthwiseError: it is no such file.
    """
    try:
        sections = json.loads(path.read_bytes())["sections"]
        return tuple(_section(section) for section in sections)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LengthwiseError(
            f"{path}: is not the result of a GPU check ({error!r}); name another file, or remove it"
        ) from error


def save_record(path: Path, record: Record) -> None:
    """Write a record as JSON."""
    content = json.dumps({"sections": [asdict(section) for section in record]}, indent=1, ensure_ascii=False)
    write_atomically(path, content.encode() + b"\n")


def as_markdown(record: Record) -> str:
    """The tables of a record, with where and when each was measured."""
    parts = []
    for section in record:
        parts.append(f"### {section.title}")
        parts.append(_where(section.ran))
        rows = [(row.what, row.asked, row.found, _verdict(row)) for row in section.rows]
        parts.append(markdown_table(("what", "asked for", "found", "verdict"), rows))
    return "\n\n".join(parts)


def into_page(path: Path, record: Record) -> None:
    """Put a record's tables between the markers of a Markdown page; the page is made where there is none.

    Raises:
        LengthwiseError: the page has no such markers, or not one pair.
    """
    part = f"{BEGIN}\n\n{as_markdown(record)}\n\n{END}"
    if not path.exists():
        write_atomically(path, f"# On a GPU\n\n{part}\n".encode())
        return
    before, _, rest = (page := path.read_text(encoding="utf-8")).partition(BEGIN)
    _, _, after = rest.partition(END)
    if page.count(BEGIN) != 1 or page.count(END) != 1 or END not in rest:
        raise LengthwiseError(f"{path}: has no place for the results; write {BEGIN} and {END} where they are to stand")
    write_atomically(path, f"{before}{part}{after}".encode())


def part_of_page(path: Path) -> str:
    """What stands between the markers of a page, without the blank lines around it."""
    return path.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def counts(rows: Sequence[Row]) -> str:
    """How many rows of each status, in words."""
    order: tuple[Status, ...] = ("passed", "measured", "missed", "failed", "rehearsed", "not run")
    found = [(status, sum(row.status == status for row in rows)) for status in order]
    return ", ".join(f"{count} {status}" for status, count in found if count)


def _section(saved: dict[str, Any]) -> SectionRecord:
    ran = None if saved["ran"] is None else Ran(**saved["ran"])
    return SectionRecord(saved["name"], saved["title"], tuple(Row(**row) for row in saved["rows"]), ran)


def _where(ran: Ran | None) -> str:
    if ran is None:
        return "**Not run on a GPU**: none was at hand."
    versions = ", ".join(f"{name} {number}" for name, number in ran.versions.items())
    return f"`{ran.command}` on {ran.device}, {ran.date}: {versions}."


def _verdict(row: Row) -> str:
    return {"measured": "", "not run": "", "missed": "**missed**", "failed": "**failed**"}.get(row.status, row.status)
