"""CSV and tab-separated files: each cell is exactly what the file holds, and only an empty cell is null.

- Types are those that `dataset.types` declares, and strings otherwise: a type that is guessed from the first rows turns
  007 into 7 and fails at A12.
- A row has as many cells as the header has names, and a quoted cell ends before a delimiter or a line break. Any other
  row is malformed. If it goes over several lines, its first line is the malformed row, and reading goes on at the next.
- A quoted cell of several lines and rows between two stray quotes look the same. If each of its lines alone has the
  cells of a row, it is taken for rows: in a file with tabs always, as texts hardly hold tabs; otherwise if no delimiter
  looks like that of a sentence, or if there are many. `dataset.csv.quoting` decides it.
- An escape has a meaning before a quote, a delimiter, a line break and itself only. Before anything else it is text, so
  that the folders of C:\\temp are not joined.
- A row of several lines has a limit, so that a stray quote does not read the rest of the file into memory.
"""

from __future__ import annotations

import csv
import difflib
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile, file_extension
from lengthwise.data.lines import find_undecodable, find_zero_bytes, open_text
from lengthwise.data.readers import wrap_file_errors
from lengthwise.data.tables import Malformed, column_types, make_tables, row_error
from lengthwise.errors import DatasetError

NO_ROWS = (
    "there is nothing but a header; if the first line is a row and not the names of the columns, give these in"
    " dataset.csv.column_names"
)
_REPEATED_HEADER = (
    "the names of the columns again, as where files were joined; if this is the header of a file whose names"
    " dataset.csv.column_names gives, set dataset.csv.header to true"
)
_MARKS = "\ufeff \t"  # what the names of columns may have around them where they are repeated
_COINCIDENCE = 4  # so many delimiters, each where a row would have it, are not there by chance
_MAX_ROW_LINES, _MAX_ROW_CHARACTERS = 10_000, 16 * 2**20  # of a row of several lines
_OTHER_DELIMITERS = ";\t|,"
_MAX_CELL = 2**31 - 1
# After the delimiter of a sentence there is a space or the line's end; in 1,000 there are three digits.
_IN_SENTENCE = r"{0}(?=\s|$)|(?<=\d){0}(?=\d{{3}}(?!\d))"
log = logging.getLogger(__name__)


def read_schema(files: Sequence[DataFile], settings: DatasetSettings) -> pa.Schema:
    """All columns of the files: their declared types, or string."""
    headers = {file: _read_header(file, settings) for file in files}
    names = dict.fromkeys(name for header in headers.values() for name in header or [])
    for file, header in headers.items():
        if header is not None:
            _check_header(file, header, list(names), settings)
    types = column_types(settings)
    return pa.schema([(name, types.get(name, pa.string())) for name in names])


def read_tables(file: DataFile, schema: pa.Schema, settings: DatasetSettings, *, keep_bad: bool) -> Iterator[pa.Table]:
    """The rows of a file."""
    return make_tables(read_rows(file, schema, settings), file, schema, settings, keep_bad=keep_bad)


def read_rows(
    file: DataFile, schema: pa.Schema, settings: DatasetSettings
) -> Iterator[tuple[int, Sequence[Any] | Malformed]]:
    """Each row's line and the cells of the columns, None where one is empty or the file lacks the column."""
    with open_text(file, settings) as text:
        rows = _parse_rows(text, file, settings)
        header = _take_header(rows, file, settings)
        if header is None:
            return
        width = len(header)
        stripped, last = [name.strip(_MARKS) for name in header], header[-1].strip()
        positions = [header.index(name) if name in header else width for name in schema.names]
        for line, row in rows:
            if isinstance(row, Malformed):
                yield line, row
            elif width > 1 and row[-1].strip() == last and [cell.strip(_MARKS) for cell in row] == stripped:
                yield line, Malformed(_REPEATED_HEADER, _delimiter(file, settings).join(row))
            else:
                row.append("")  # the cell of a column that the file lacks
                yield line, [row[position] or None for position in positions]


def missing_column_hint(names: Sequence[str], settings: DatasetSettings) -> str:
    """What may be the reason that a column is missing, for its error."""
    if len(names) == 1 and names[0].lower().startswith("sep="):
        return "; remove the first line, which only Excel reads, and set dataset.csv.delimiter"
    if len(names) == 1:
        for delimiter in _OTHER_DELIMITERS:
            if settings.text_column in names[0].split(delimiter):
                return f"; the delimiter seems to be {delimiter!r}: set dataset.csv.delimiter to it"
    return "; if the first line is a row and not the names, give these in dataset.csv.column_names"


class _Lines:
    """The lines of a file, for the parser of the standard library; those of the current row can be pushed back.

    Attributes:
        row: the lines of the current row, as they are in the file.
        number: how many lines are taken, those of the current row included.
    """

    def __init__(self, lines: Iterator[str], escape: str | None, delimiter: str) -> None:
        self._lines, self._returned = lines, deque[str]()
        # The parser drops an escape before any character; a doubled one is one that it keeps.
        special = f'[{re.escape(delimiter)}{re.escape(escape)}"\r\n]' if escape else ""
        self._escapes = re.compile(f"{re.escape(escape)}({special})?") if escape else None
        self.row: list[str] = []
        self.number = self._characters = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._lines)
        self.row.append(line)
        self.number += 1
        self._characters = len(line) if len(self.row) == 1 else self._characters + len(line)
        if len(self.row) > 1 and (len(self.row) > _MAX_ROW_LINES or self._characters > _MAX_ROW_CHARACTERS):
            raise csv.Error(f"a cell of more than {_MAX_ROW_LINES:,} lines or {_MAX_ROW_CHARACTERS:,} characters")
        if self._escapes is None:
            return line
        return self._escapes.sub(lambda found: found[0] if found[1] else 2 * found[0], line)

    def push_back(self) -> str:
        """All lines of the row but the first, which is returned."""
        first, *others = self.row
        self._returned.extendleft(reversed(others))
        self.number -= len(others)
        self.row = [first]
        return first


def _parse_rows(text: Any, file: DataFile, settings: DatasetSettings) -> Iterator[tuple[int, list[str] | Malformed]]:
    """Each row's first line and its cells, without empty lines; the first row decides how many cells there are."""
    csv.field_size_limit(_MAX_CELL)  # of all readers of the process; the default is 128 KiB
    options, delimiter = settings.csv, _delimiter(file, settings)
    lines = _Lines(iter(text), options.escape, delimiter)
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if options.quoting == "none" else csv.QUOTE_MINIMAL,
        escapechar=options.escape,
        strict=True,
    )
    width = len(options.column_names) or None
    while True:
        lines.row = []
        start = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = f"up to line {lines.number} " if lines.number > start else ""
            remedy = _escape_remedy(lines.row, settings) or "; set dataset.csv.quoting to none if they are text"
            reason = f"the quotes of a cell do not fit {end}({error}){remedy}"
            yield start, Malformed(reason, lines.push_back().rstrip("\r\n"))
            continue
        if not row or (width != 1 and len(row) == 1 and not row[0].strip()):
            continue
        width = width or len(row)
        if len(lines.row) > 1 and _may_be_rows(lines.row, width, delimiter, settings):
            reason = (
                f"a quoted cell goes on to line {lines.number}, but each of these lines could be a row by itself;"
                " set dataset.csv.quoting to standard if the cell is meant so, or to none if the quotes are text"
            )
            yield start, Malformed(reason, lines.push_back().rstrip("\r\n"))
        elif (zeros := find_zero_bytes("".join(lines.row))) is not None:
            yield start, Malformed(zeros, "".join(lines.row).rstrip("\r\n"))
        elif len(row) != width:
            cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
            names = "dataset.csv.column_names" if options.column_names else "the header"
            reason = f"{cells}, but {names} has {width}{_escape_remedy(lines.row, settings)}"
            yield start, Malformed(reason, "".join(lines.row).rstrip("\r\n"))
        else:
            yield start, row


def _escape_remedy(lines: Sequence[str], settings: DatasetSettings) -> str:
    r"""What to do about quotes within a cell that are written as `\"`; empty if there are none."""
    if settings.csv.escape or not any('\\"' in line for line in lines):
        return ""
    return "; set dataset.csv.escape to a backslash if it stands before quotes that are text"


def _may_be_rows(lines: Sequence[str], width: int, delimiter: str, settings: DatasetSettings) -> bool:
    """Whether the lines of one row are more likely one row each."""
    if width == 1 or settings.csv.quoting is not None:
        return False
    if any(line.count(delimiter) != width - 1 for line in lines):
        return False
    if delimiter == "\t" or (len(lines) - 1) * (width - 1) >= _COINCIDENCE:
        return True
    in_sentence = re.compile(_IN_SENTENCE.format(re.escape(delimiter)))
    last = lines[-1].rstrip("\r\n") + "."  # at its end there may be an empty cell
    return not any(in_sentence.search(line) for line in [*lines[:-1], last])


def _take_header(
    rows: Iterator[tuple[int, list[str] | Malformed]], file: DataFile, settings: DatasetSettings
) -> list[str] | None:
    """The names of the columns; None if the file has no row. Takes the header from the rows."""
    names = list(settings.csv.column_names)
    if names and not settings.csv.header:
        return names
    line, header = next(rows, (0, None))
    if isinstance(header, Malformed):
        raise row_error(settings, file, line, header.reason, is_header=True)
    if header is None:
        return None
    for name in header:
        if (problem := find_undecodable(name, settings)) is not None:
            raise row_error(settings, file, line, problem, is_header=True)
    return names or header


def _read_header(file: DataFile, settings: DatasetSettings) -> list[str] | None:
    with wrap_file_errors(file, settings), open_text(file, settings) as text:
        return _take_header(_parse_rows(text, file, settings), file, settings)


def _check_header(file: DataFile, header: list[str], known: Sequence[str], settings: DatasetSettings) -> None:
    """Refuse a header in which a needed column is ambiguous or the text column is missing."""
    for name in dict.fromkeys([settings.text_column, *settings.keep_columns]):
        if header.count(name) > 1:
            raise DatasetError(
                f"{settings.path}: {file} has {header.count(name)} columns {name!r}; rename one in its header, or name"
                " all columns in dataset.csv.column_names and set dataset.csv.header to true"
            )
        if name not in header and name in known:
            if name == settings.text_column:
                close = difflib.get_close_matches(name, header, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise DatasetError(
                    f"{settings.path}: {file} has no column {name!r}, as other files have; its columns are"
                    f" {', '.join(map(repr, header))}{hint}; leave the file out, or fix its header"
                )
            log.warning("%s: %s has no column %r; its rows have null there", settings.path, file, name)


def _delimiter(file: DataFile, settings: DatasetSettings) -> str:
    return settings.csv.delimiter or ("\t" if file_extension(file.name) in (".tsv", ".tab") else ",")
