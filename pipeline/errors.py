"""The exceptions for problems that a user can fix.

- Every message names the file or setting, the value found and the remedy.
- Scripts print the message alone and exit with 2; any other exception is a bug of this project.
"""

from collections.abc import Mapping
from itertools import islice

_ROWS_NAMED = 5


class LengthwiseError(Exception):
    """A problem that the user can fix; `str(error)` is one paragraph that says how."""


class ConfigError(LengthwiseError):
    """A run's YAML file, or a `--set`, is not a valid configuration."""


class DatasetError(LengthwiseError):
    """The input cannot be opened, or lacks what the configuration names."""


class TextError(LengthwiseError):
    """A row's text cannot be encoded under the configured policy."""


class BadRowsError(TextError):
    """Some rows cannot be encoded. Code that knows the rows' position in the dataset raises `counted_from` instead.

    Attributes:
        problem: what is wrong with them, after "N of the texts".
        reasons: the reason for each row, by its number.
        remedy: what the user can do.
        first_row: added to the rows' numbers in the message.
    """

    def __init__(self, problem: str, reasons: Mapping[int, str], remedy: str, first_row: int = 0) -> None:
        super().__init__(problem, reasons, remedy, first_row)
        self.problem, self.reasons, self.remedy, self.first_row = problem, reasons, remedy, first_row

    def __str__(self) -> str:
        named = islice(self.reasons.items(), _ROWS_NAMED)
        shown = "; ".join(f"row {self.first_row + row}: {reason}" for row, reason in named)
        more = f"; and {len(self.reasons) - _ROWS_NAMED} more" if len(self.reasons) > _ROWS_NAMED else ""
        return f"{len(self.reasons)} of the texts {self.problem} ({shown}{more}); {self.remedy}"

    def counted_from(self, first_row: int) -> "BadRowsError":
        """The same error, with rows counted from `first_row` of the dataset."""
        return BadRowsError(self.problem, self.reasons, self.remedy, first_row)


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


class BatchError(LengthwiseError):
    """Rows cannot be batched, or a sampler's saved state does not fit them."""
