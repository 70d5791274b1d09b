"""The exceptions for problems that a user can fix.

- Every message names the file or setting, the value found and the remedy.
- Scripts print the message alone and exit with 2; any other exception is a bug of this project.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

_ROWS_NAMED = 5


class LengthwiseError(Exception):
    """A problem that the user can fix; `str(error)` is one paragraph that says how."""


class ConfigError(LengthwiseError):
    """A run's YAML file, or a `--set`, is not a valid configuration."""


class DatasetError(LengthwiseError):
    """The input cannot be opened, or lacks what the configuration names."""


class NoRowsError(DatasetError):
    """The input can be opened, and is empty."""


class ShortInputError(DatasetError):
    """The input has fewer rows than it should have."""


class ColumnError(DatasetError):
    """Columns that settings name are missing, or are not of the type they should be.

    Code whose columns are named by other settings raises an error of its own, with its own remedy.

    Attributes:
        problem: the file, the columns and what is wrong with them.
        columns: their names.
    """

    def __init__(self, problem: str, columns: Sequence[str], remedy: str) -> None:
        super().__init__(problem, columns, remedy)
        self.problem, self.columns, self._remedy = problem, tuple(columns), remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self._remedy}"


class TextError(LengthwiseError):
    """A row's text cannot be encoded under the configured policy."""


class RowError(TextError):
    """The text of one row cannot be encoded, or cannot be used.

    Attributes:
        row: its number, from 0.
        problem: what is wrong with it.
        remedy: what the user can do.
        place: what the message calls it.
    """

    def __init__(self, row: int, problem: str, remedy: str, place: str = "") -> None:
        super().__init__(row, problem, remedy, place)
        self.row, self.problem, self.remedy, self.place = row, problem, remedy, place or f"texts[{row}]"

    def __str__(self) -> str:
        return f"{self.place} {self.problem}; {self.remedy}"

    def at(self, place: str, remedy: str | None = None) -> "RowError":
        """The same error of a row that is called something else, and perhaps has another remedy."""
        return RowError(self.row, self.problem, remedy or self.remedy, place)


class BadRowsError(TextError):
    """Some rows cannot be encoded. Code that knows the rows' position in the dataset raises `counted_from` instead.

    Attributes:
        problem: what is wrong with them, after "N of the texts".
        reasons: the reason for each row, by its number.
        remedy: what the user can do.
        first_row: added to the rows' numbers in the message.
        places: the file and line of rows, by their number in the dataset, where these are known.
    """

    def __init__(
        self,
        problem: str,
        reasons: Mapping[int, str],
        remedy: str,
        first_row: int = 0,
        places: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(problem, reasons, remedy, first_row, places)
        self.problem, self.reasons, self.remedy, self.first_row = problem, reasons, remedy, first_row
        self.places = places or {}

    @property
    def named_rows(self) -> list[int]:
        """The rows that the message names, as numbers in the dataset."""
        return [self.first_row + row for row in islice(self.reasons, _ROWS_NAMED)]

    def __str__(self) -> str:
        reasons = [self.reasons[row - self.first_row] for row in self.named_rows]
        shown = "; ".join(
            f"row {row}{f' ({self.places[row]})' if row in self.places else ''}: {reason}"
            for row, reason in zip(self.named_rows, reasons, strict=True)
        )
        more = f"; and {len(self.reasons) - _ROWS_NAMED} more" if len(self.reasons) > _ROWS_NAMED else ""
        count = len(self.reasons)
        return f"{count} of the texts {self.problem} ({shown}{more}); rows count from 0; {self.remedy}"

    def counted_from(self, first_row: int, places: Mapping[int, str] | None = None) -> "BadRowsError":
        """The same error, with rows counted from `first_row` of the dataset, and their places."""
        return BadRowsError(self.problem, self.reasons, self.remedy, first_row, places)

    def of_rows(self, rows: Sequence[int]) -> "BadRowsError":
        """The same error of texts that were only some rows: text i is row `rows[i]`."""
        reasons = {rows[row]: reason for row, reason in self.reasons.items()}
        return BadRowsError(self.problem, reasons, self.remedy, self.first_row, self.places)


class TokenizerError(LengthwiseError):
    """A tokenizer cannot be trained, loaded, or used with this model."""


class CheckpointError(LengthwiseError):
    """A checkpoint folder is incomplete or its sizes do not fit each other."""


class StoreError(LengthwiseError):
    """An output folder cannot be written, or belongs to another run."""


class RunError(LengthwiseError):
    """A run stopped early: a part of it failed, or a worker died. What was committed is safe."""


class ArtifactError(LengthwiseError):
    """An artifact folder is incomplete or changed, or an export cannot be made."""


class AuditError(LengthwiseError):
    """A model cannot be audited: it cannot be opened, or is no embedding model."""


class BatchError(LengthwiseError):
    """Rows cannot be batched, or a sampler's saved state does not fit them."""
