"""The results of a GPU check: rows by section, saved as JSON and shown as a part of a Markdown page.

A section keeps the results of the last GPU that it ran on: a later check without a GPU, or of other sections, does not
change them.
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
    """The result of one check.

    Attributes:
        name: the quantity that is measured.
        target: the value required; empty where the figure is for information only.
        result: words and figures; `NOT_RUN` where it was not run.
        status: missed if it ran and did not reach the target; failed if it raised an error.
    """

    name: str
    target: str
    result: str = NOT_RUN
    status: Status = "not run"


@dataclass(frozen=True)
class RunInfo:
    """Where and when a section ran.

    Attributes:
        device: the GPU's name; in a rehearsal, a note that there was none.
        versions: by package.
        date: ISO 8601.
        command: the command line.
    """

    device: str
    versions: Mapping[str, str]
    date: str
    command: str


@dataclass(frozen=True)
class SectionRecord:
    """The rows of a section, and where they were measured; `run_info` is None if they never were."""

    name: str
    title: str
    rows: tuple[Row, ...]
    run_info: RunInfo | None = None

    @property
    def passed(self) -> bool:
        """Whether all of it ran on a GPU, and nothing failed or was missed; of a rehearsal, whether nothing failed."""
        statuses = {row.status for row in self.rows}
        return statuses <= {"passed", "measured"} or ("rehearsed" in statuses and statuses <= {"rehearsed", "not run"})


Record = tuple[SectionRecord, ...]


def merge_records(before: Record, now: Record) -> Record:
    """The sections of `now`, none of which has run, with their results in `before`.

    A check that was added since then reads "not run on a GPU"; one that was removed is left out.
    """
    known = {section.name: section for section in before}
    sections = []
    for section in now:
        earlier = known.get(section.name, section)
        rows = {row.name: row for row in earlier.rows} if earlier.run_info else {}
        sections.append(
            replace(section, rows=tuple(rows.get(row.name, row) for row in section.rows), run_info=earlier.run_info)
        )
    return tuple(sections)


def replace_section(record: Record, section: SectionRecord) -> Record:
    """The record with this section instead of the one of the same name."""
    return tuple(section if section.name == other.name else other for other in record)


def load_record(path: Path) -> Record:
    """Read what `save_record` wrote; an empty record if there is no file.

    Raises:
        LengthwiseError: the file is not a record.
    """
    try:
        sections = json.loads(path.read_bytes())["sections"]
        return tuple(_section(section) for section in sections)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LengthwiseError(
            f"{path}: is not the record of a GPU check ({error!r}); name another file, or remove it"
        ) from error


def save_record(path: Path, record: Record) -> None:
    """Write a record as JSON."""
    content = json.dumps({"sections": [asdict(section) for section in record]}, indent=1, ensure_ascii=False)
    write_atomically(path, content.encode() + b"\n")


def record_to_markdown(record: Record) -> str:
    """A record as one table per section, with where and when it was measured."""
    parts = []
    for section in record:
        parts.append(f"### {section.title}")
        parts.append(_describe_run(section.run_info))
        rows = [(row.name, row.target, row.result, _verdict(row)) for row in section.rows]
        parts.append(markdown_table(("check", "target", "result", "verdict"), rows))
    return "\n\n".join(parts)


def update_page(path: Path, record: Record) -> None:
    """Write a record's tables between the markers of a Markdown page; a missing page is created.

    Raises:
        LengthwiseError: the page does not have exactly one pair of markers.
    """
    part = f"{BEGIN}\n\n{record_to_markdown(record)}\n\n{END}"
    if not path.exists():
        write_atomically(path, f"# On a GPU\n\n{part}\n".encode())
        return
    before, _, rest = (page := path.read_text(encoding="utf-8")).partition(BEGIN)
    _, _, after = rest.partition(END)
    if page.count(BEGIN) != 1 or page.count(END) != 1 or END not in rest:
        raise LengthwiseError(f"{path}: has no place for the results; write {BEGIN} and {END} where they belong")
    write_atomically(path, f"{before}{part}{after}".encode())


def read_page_part(path: Path) -> str:
    """The text between the markers of a page, without the blank lines around it."""
    return path.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def count_statuses(rows: Sequence[Row]) -> str:
    """The number of rows per status, in words."""
    order: tuple[Status, ...] = ("passed", "measured", "missed", "failed", "rehearsed", "not run")
    totals = [(status, sum(row.status == status for row in rows)) for status in order]
    return ", ".join(f"{count} {status}" for status, count in totals if count)


def _section(saved: dict[str, Any]) -> SectionRecord:
    run_info = None if saved["run_info"] is None else RunInfo(**saved["run_info"])
    return SectionRecord(saved["name"], saved["title"], tuple(Row(**row) for row in saved["rows"]), run_info)


def _describe_run(run_info: RunInfo | None) -> str:
    if run_info is None:
        return "**Not run on a GPU**: none was available."
    versions = ", ".join(f"{name} {number}" for name, number in run_info.versions.items())
    return f"`{run_info.command}` on {run_info.device}, {run_info.date}: {versions}."


def _verdict(row: Row) -> str:
    return {"measured": "", "not run": "", "missed": "**missed**", "failed": "**failed**"}.get(row.status, row.status)
